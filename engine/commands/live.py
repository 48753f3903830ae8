"""``fusematte live``: replaces the background of a camera or a stream."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from fusematte.engine.commands.options import (
    LOOK,
    MASK,
    add_job_options,
    add_json_option,
    add_model_options,
    backend_of,
    mask_of,
    parse_size,
    talking,
    text_of,
)
from fusematte.engine.errors import UsageError
from fusematte.engine.jobs.options import parse_frame_rate
from fusematte.engine.jobs.progress import JsonProgress
from fusematte.engine.live.cameras import NO_CAMERA, Camera, list_cameras, open_camera
from fusematte.engine.live.keyboard import terminal_keys
from fusematte.engine.live.meter import LiveStatistics
from fusematte.engine.live.ndi import SCHEME, NdiSource
from fusematte.engine.live.outputs import Outlet
from fusematte.engine.live.preview import Preview
from fusematte.engine.live.recording import Recording
from fusematte.engine.live.run import KEYS, LiveRun
from fusematte.engine.live.session import Session
from fusematte.engine.live.stream import Stream
from fusematte.engine.live.virtual_camera import VirtualCamera
from fusematte.engine.media.sources import is_url

LINE_INTERVAL = 10.0
"""Seconds between lines of statistics if there is no terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--camera", "-c", default="0", metavar="CAMERA",
        help="number or device of a camera; URL of a stream (rtsp, srt, ...); a video file, played "
        "at its own speed; list prints the cameras (0)",
    )  # fmt: skip
    parser.add_argument(
        "--background", "-b", action="append", metavar="BG",
        help="as for run (blur); with several, key b switches to the next one",
    )  # fmt: skip
    _add_outputs(parser)
    parser.add_argument(
        "--budget-ms", type=float, metavar="MS",
        help="latency budget; to hold it, mattes follow the motion and the network becomes smaller "
        "(one frame)",
    )  # fmt: skip
    parser.add_argument(
        "--lookahead", type=int, default=0, metavar="N",
        help="smooth with the next N frames, which delays the output by them (0)",
    )  # fmt: skip
    parser.add_argument(
        "--no-audio", action="store_true",
        help="leave out the sound of a file or a stream, which files and streams get otherwise",
    )  # fmt: skip
    parser.add_argument("--mirror", action="store_true", help="mirror the picture horizontally")
    parser.add_argument(
        "--size", type=text_of(parse_size), metavar="WxH", help="frame size requested from a camera"
    )
    parser.add_argument(
        "--fps", type=text_of(parse_frame_rate), metavar="N",
        help="frame rate requested from a camera",
    )  # fmt: skip
    add_job_options(parser, *LOOK, *MASK)
    add_model_options(parser)
    add_json_option(parser)
    keys = ", ".join(f"{key} {what}" for key, what in KEYS.items())
    parser.epilog = f"keys, in the terminal or the window: {keys}\n\n{parser.epilog}"


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--virtual-camera", nargs="?", const="", metavar="DEVICE",
        help="act as a camera for other programs (v4l2loopback, OBS); (the first free one)",
    )  # fmt: skip
    parser.add_argument("--preview", action="store_true", help="show the result in a window")
    parser.add_argument(
        "--output", "-o", action="append", default=[], metavar="OUT",
        help="a file, or a URL to stream to (rtmp, rtsp, srt, tcp, udp; http is WHIP; ndi://NAME); "
        "repeatable",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if options.camera == "list":
        devices = list_cameras()
        print("\n".join(f"{d.name}  {d.description}" for d in devices) or NO_CAMERA)
        return 0
    with talking(options):
        _live(options)
    return 0


def _live(options: argparse.Namespace) -> None:
    if not (options.output or options.preview or options.virtual_camera is not None):
        raise UsageError(
            "there is no output",
            remedy="use --virtual-camera for meetings, --preview for a window, or "
            "--output for a file or a stream",
        )
    backgrounds = options.background or ["blur"]
    with ExitStack() as stack:
        opened = stack.enter_context(ExitStack())
        camera = open_camera(options.camera, size=options.size, rate=options.fps)
        opened.callback(camera.close)
        outlets = list(_open_outlets(options, camera, opened))
        session = stack.enter_context(_open_session(options, backgrounds[0], camera.rate))
        keys = stack.enter_context(terminal_keys())
        report = None if options.quiet else StatisticsLine(json=options.json)
        live = LiveRun(camera, session, outlets, backgrounds, report, keys)
        opened.pop_all()  # from here on the run closes them
        with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop
            live.run()
        if options.json:
            JsonProgress().tell("done", **asdict(session.statistics))
        elif not options.quiet:
            terminal = sys.stderr.isatty()
            print(f"\r{session.statistics}\x1b[K" if terminal else session.statistics)


def _open_session(options: argparse.Namespace, background: str, rate: Fraction) -> Session:
    budget = options.budget_ms
    if budget is None:  # a frame of the camera, and the frames that are looked at ahead
        budget = float((1 + options.lookahead) * 1000 / rate)
    return Session(
        background,
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
    has_sound = camera.has_sound and not options.no_audio
    for name in options.output:
        if name.startswith(SCHEME):
            yield opened(NdiSource(name, camera.like, camera.rate, has_sound=has_sound))
        elif is_url(name):
            yield opened(Stream(name, camera.like, camera.rate, has_sound=has_sound))
        else:
            yield opened(Recording(Path(name), camera.like, camera.rate, has_sound=has_sound))


class StatisticsLine:
    """Prints statistics: on one line of a terminal, elsewhere a line every few seconds."""

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
