"""Generated clips and ways to look into files, for the tests; all by libav directly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fusematte.cpp_ext import resize_to_tensor
from fusematte.engine.frame import Frame, Matte
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.single import Report, run_once
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.svt_av1 import tamed
from fusematte.engine.media.writer import Writer

SAMPLE_RATE = 48000


def peak_memory(command: Sequence[object]) -> int:
    """Runs a program; the most memory that it took, in bytes.

    From a small process between: what it takes after a fork counts, too, and is its parent's.

    Raises:
        CalledProcessError: it failed.
    """
    pytest.importorskip("resource")
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], check=True, stdout=subprocess.PIPE
    )
    return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


class Content(NamedTuple):
    """What a player finds in a file: times in seconds, packets as (stream, bytes, pts)."""

    times: list[Fraction]
    durations: list[Fraction]
    packets: list[tuple[int, bytes, Fraction]]


def picture(width: int, height: int, index: int) -> NDArray[np.uint8]:
    """A smooth RGB picture, [height, width, 3], that moves with ``index``."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / (9 + 4 * c) + index / 3) + np.cos(y / (7 + 3 * c)) for c in range(3)]
    return np.stack([(wave * 50 + 128) for wave in waves], 2).astype(np.uint8)


def two_people(width: int, height: int, index: int) -> NDArray[np.uint8]:
    """Two people side by side, the right one in other colours, who move a little."""
    portrait = pytest.importorskip("skimage.data").astronaut()
    left = cv2.resize(portrait, (width // 2, height))
    both = np.hstack([left, left[:, ::-1, ::-1]])
    return np.ascontiguousarray(np.roll(both, index, 1), np.uint8)


def make_clip(
    path: Path,
    *,
    width: int = 64,
    height: int = 48,
    frames: int = 12,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    audio: bool | Sequence[str] = False,
    rotation: int = 0,
    times: Iterable[int] | None = None,
    time_base: Fraction | None = None,
    start: int = 0,
    aspect: Fraction = Fraction(1),
    color: tuple[int, int, int, int] | None = None,
    metadata: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    show: Callable[[int, int, int], NDArray[np.uint8]] = picture,
) -> Path:
    """Write a clip and return its path.

    times: presentation times in units of ``time_base`` (1/rate by default), for a variable rate.
    start: added to them.
    audio: True for one AAC stream, or the encoders of several.
    rotation: degrees clockwise for display.
    color: matrix, primaries, transfer, range as libav numbers them.
    show: the RGB pictures, for width, height and number.
    """
    unit = time_base or 1 / Fraction(rate)
    shown = list(range(frames) if times is None else times)
    with tamed(), av.open(str(path), "w", container_options=muxer or {}) as container:
        container.metadata.update(metadata or {})
        video: Any = container.add_stream(codec, rate=rate, options=options or {})
        video.width, video.height, video.pix_fmt = width, height, pixel_format
        video.codec_context.time_base = video.time_base = unit
        video.codec_context.sample_aspect_ratio = aspect
        context = video.codec_context
        if color:
            context.colorspace, context.color_primaries = color[:2]
            context.color_trc, context.color_range = color[2:]
        if rotation:
            video.set_display_rotation(-rotation)
        names = ("aac",) if audio is True else tuple(audio or ())
        sounds: list[Any] = [container.add_stream(name, rate=SAMPLE_RATE) for name in names]
        for index, time in enumerate(shown):
            rgb = av.VideoFrame.from_ndarray(show(width, height, index), format="rgb24")
            image = rgb.reformat(format=pixel_format)
            image.pts, image.time_base = time + start, unit
            container.mux(video.encode(image))
        container.mux(video.encode(None))
        seconds = float((shown[-1] + 1) * unit)
        for number, sound in enumerate(sounds):
            for noise in _noise(seconds, number, sound):
                container.mux(sound.encode(noise))
            container.mux(sound.encode(None))
    return path


def clip_of_two_sizes(path: Path, frames: int) -> Path:
    """A transport stream whose second half is larger; a key frame every five pictures."""
    known: dict[str, Any] = {
        "frames": frames // 2,
        "options": {"g": "5", "keyint_min": "5", "bf": "0"},
        "muxer": {"mpegts_flags": "initial_discontinuity"},
    }
    small = make_clip(path, width=64, height=48, **known).read_bytes()
    large = make_clip(path, width=96, height=72, start=frames // 2, **known).read_bytes()
    path.write_bytes(small + large)
    return path


def _noise(seconds: float, seed: int, stream: av.AudioStream) -> Iterable[av.AudioFrame]:
    generator = np.random.default_rng(seed)
    format, layout = stream.codec_context.format, stream.codec_context.layout
    for start in range(0, int(seconds * SAMPLE_RATE), 1024):
        samples = (generator.standard_normal((2, 1024)) * 0.1).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        yield from av.AudioResampler(format, layout, SAMPLE_RATE).resample(frame)


def content(path: Path) -> Content:
    """What PyAV finds in a file."""
    times, durations, packets = [], [], []
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.stream.type == "video":
                for frame in packet.decode():
                    times.append(frame.pts * frame.time_base)
                    durations.append(frame.duration * frame.time_base)
            elif packet.size:
                stream = packet.stream.index
                packets.append((stream, bytes(packet), packet.pts * packet.time_base))
    return Content(times, durations, packets)


ROUNDING = {
    ".mp4": Fraction(0),
    ".mov": Fraction(0),
    ".mkv": Fraction(1, 2000),
    ".webm": Fraction(1, 2000),
    ".ts": Fraction(1, 180_000),
    ".flv": Fraction(1, 2000),
}
"""Seconds by which a container may be off in telling the time of a frame."""


def transcode(
    source: Path | str,
    target: Path | str,
    **options: Any,  # noqa: ANN401
) -> None:
    """Reader into Writer; ``options`` are the Writer's."""
    with Reader(source) as reader, Writer(target, reader, **options) as writer:
        for item in reader.items():
            if isinstance(item, Frame):
                writer.write(item)
            else:
                writer.mux(item)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns when the condition holds; fails if that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.005)


def animation(
    path: Path, colors: Sequence[tuple[int, int, int]] = ((255, 0, 0), (0, 0, 255)), ms: int = 200
) -> Path:
    """A GIF, APNG, WebP or AVIF of 64 x 48 with a picture of each RGB colour."""
    frames = cv2.Animation()
    frames.frames = [np.full((48, 64, 3), color[::-1], np.uint8) for color in colors]
    frames.durations = np.full(len(colors), ms, np.int32)
    assert cv2.imwriteanimation(str(path), frames)
    return path


def first_frame(path: Path) -> av.VideoFrame:
    """The first picture of a file."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def pictures_of(path: Path) -> list[NDArray[np.uint8]]:
    """The pictures of a file, in gray."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def cut(path: Path, share: float) -> Path:
    """A copy of a file that breaks off after ``share`` of its bytes."""
    data = path.read_bytes()
    target = path.with_name(f"cut{path.suffix}")
    target.write_bytes(data[: int(len(data) * share)])
    return target


def matte_of(frame: Frame, alpha: NDArray[np.float32]) -> Matte:
    """A matte of a frame with this alpha, [h, w], on which both decoders agree."""
    _, color = resize_to_tensor(
        frame.planes, *alpha.shape, matrix=frame.matrix, levels=frame.levels
    )
    return Matte(
        alpha=alpha,
        foreground=alpha,
        background=1 - alpha,
        beta=np.ones_like(alpha),
        color=color,
        pts=frame.pts,
        time_base=frame.time_base,
    )


def run_whole(input: Path, output: Path, **given: Any) -> Report:  # noqa: ANN401
    """A job in one go: the keywords of ``run_once`` and the fields of ``JobOptions`` together."""
    others = {
        name: given.pop(name) for name in ("span", "tools", "observe", "progress") if name in given
    }
    return run_once(input, output, JobOptions(**given), **others)


def events(text: str) -> list[dict[str, Any]]:
    """What a command with ``--json`` printed."""
    return [json.loads(line) for line in text.splitlines()]
