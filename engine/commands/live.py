"""``fusematte live``: a camera in, the person in it over another background out."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from fusematte.engine.commands.options import (
    LOOK,
    MASK,
    add_job_options,
    add_json_option,
    add_model_options,
    backend_of,
    mask_of,
    text_of,
)
from fusematte.engine.errors import UsageError
from fusematte.engine.jobs.options import parse_frame_rate
from fusematte.engine.jobs.progress import JsonProgress
from fusematte.engine.live.cameras import Camera, list_cameras, open_camera
from fusematte.engine.live.keyboard import terminal_keys
from fusematte.engine.live.meter import LiveStatistics
from fusematte.engine.live.outputs import Outlet
from fusematte.engine.live.preview import Preview
from fusematte.engine.live.recording import Recording
from fusematte.engine.live.run import KEYS, LiveRun
from fusematte.engine.live.session import Session
from fusematte.engine.live.stream import Stream
from fusematte.engine.live.virtual_camera import VirtualCamera
from fusematte.engine.media.sources import is_url

LINE_INTERVAL = 10.0
"""Seconds between the lines of figures where there is no terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--camera", "-c", default="0", metavar="CAMERA",
        help="a camera's number or device; a stream's URL (rtsp, srt, ...); a video file, played "
        "at its own pace; or list, which tells the cameras here (0)",
    )  # fmt: skip
    parser.add_argument(
        "--background", "-b", action="append", metavar="BG",
        help="as for run (blur); several can be given, and key b takes the next one",
    )  # fmt: skip
    parser.add_argument(
        "--virtual-camera", nargs="?", const="", metavar="DEVICE",
        help="be a camera for other programs (v4l2loopback, OBS); the first that is free",
    )  # fmt: skip
    parser.add_argument("--preview", action="store_true", help="show it in a window")
    parser.add_argument(
        "--output", "-o", action="append", default=[], metavar="OUT",
        help="a file, or a URL to stream to (rtmp, rtsp, srt, tcp, udp; http is WHIP); can be "
        "given again",
    )  # fmt: skip
    parser.add_argument(
        "--budget-ms", type=float, metavar="MS",
        help="latency to hold by a smaller network when the machine is busy (one frame)",
    )  # fmt: skip
    parser.add_argument(
        "--lookahead", type=int, default=0, metavar="N",
        help="hold N frames back, and flicker less (0)",
    )  # fmt: skip
    parser.add_argument("--mirror", action="store_true", help="turn left to right")
    parser.add_argument("--size", type=_size, metavar="WxH", help="size to ask a camera for")
    parser.add_argument(
        "--fps", type=text_of(parse_frame_rate), metavar="N", help="frame rate to ask a camera for"
    )
    add_job_options(parser, *LOOK, *MASK)
    add_model_options(parser)
    add_json_option(parser)
    keys = ", ".join(f"{key} {what}" for key, what in KEYS.items())
    parser.epilog = f"keys, in the terminal or the window: {keys}\n\n{parser.epilog}"


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if options.camera == "list":
        devices = list_cameras()
        print("\n".join(f"{d.name}  {d.description}" for d in devices) or "no camera here")
        return 0
    if not (options.output or options.preview or options.virtual_camera is not None):
        raise UsageError("nowhere to show it: give --preview, --virtual-camera or --output")
    backgrounds = options.background or ["blur"]
    with ExitStack() as stack:
        opened = stack.enter_context(ExitStack())
        camera = open_camera(options.camera, size=options.size, rate=options.fps)
        opened.callback(camera.close)
        outlets = list(_open_outlets(options, camera, opened))
        delay = float(options.lookahead * 1000 / camera.rate)
        budget = options.budget_ms
        if budget is None:
            budget = float(1000 / camera.rate) + delay
        session = stack.enter_context(
            Session(
                backgrounds[0],
                model=options.model,
                backend=backend_of(options),
                threads=options.threads,
                budget_ms=budget,
                mirror=options.mirror,
                lookahead=options.lookahead,
                light_wrap=options.light_wrap,
                despill=options.despill,
                mask=mask_of(options),
            )
        )
        keys = stack.enter_context(terminal_keys())
        report = None if options.quiet else StatisticsLine(json=options.json)
        live = LiveRun(camera, session, outlets, backgrounds, report, keys)
        opened.pop_all()  # from here on it closes them itself
        return _run(live, session, quiet=options.quiet or options.json)


def _run(live: LiveRun, session: Session, *, quiet: bool) -> int:
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
        live.run()
    if not quiet:
        print(f"\r{session.statistics}\x1b[K" if sys.stderr.isatty() else session.statistics)
    return 0


def _open_outlets(
    options: argparse.Namespace, camera: Camera, stack: ExitStack
) -> Iterator[Outlet]:
    def opened(outlet: Outlet) -> Outlet:
        stack.callback(outlet.close)
        return outlet

    if options.virtual_camera is not None:
        yield opened(VirtualCamera(camera.like, camera.rate, options.virtual_camera or None))
    if options.preview:
        yield opened(Preview())
    for name in options.output:
        if is_url(name):
            yield opened(Stream(name, camera.like, camera.rate))
        else:
            yield opened(Recording(Path(name), camera.like, camera.rate))


class StatisticsLine:
    """The figures, on one line of a terminal; elsewhere a line now and then."""

    def __init__(self, *, json: bool = False) -> None:
        self._json = JsonProgress() if json else None
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def __call__(self, statistics: LiveStatistics) -> None:
        if self._json is not None:
            self._json.tell("progress", **asdict(statistics))
        elif self._terminal:
            print(f"\r{statistics}\x1b[K", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._last >= LINE_INTERVAL:
            self._last = time.monotonic()
            print(statistics, file=sys.stderr, flush=True)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH")
    return int(match[1]), int(match[2])
