"""The main job: a video file in, the people of it over another background out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.composite import Background, Composite, compose, open_background
from fusematte.engine.decode import Reader
from fusematte.engine.encode import Writer
from fusematte.engine.errors import TruncatedInputError, UsageError
from fusematte.engine.frame import Frame, Matte, Plane
from fusematte.engine.matte import Matter
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.pipeline import Pipeline, Statistics
from fusematte.engine.segments import Parts, Span, join

StrPath = str | PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a finished job did.

    frames: how many were written; seconds: wall time; busy: seconds of work per stage.
    """

    frames: int
    seconds: float
    busy: dict[str, float]

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        return f"{self.frames} frames in {self.seconds:.1f} s ({self.rate:.1f} fps)"


Progress = Callable[[int, Reader, Statistics], None]
"""Called after each frame with the number of frames written so far."""


Observe = Callable[[Matte], None]
"""Called with the matte of each frame, in their order, those of a warm-up too."""


class Tools(NamedTuple):
    """What a job works with; given on from stretch to stretch, it is not opened again and again."""

    matter: Matter
    background: Background


def run(
    input: StrPath,
    output: StrPath,
    *,
    background: StrPath = "green",
    alpha_output: StrPath | None = None,
    model: StrPath = DEFAULT_MODEL,
    backend: str = "auto",
    threads: int | None = None,
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
    audio: bool = True,
    span: Span | None = None,
    parts: Parts | None = None,
    tools: Tools | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
) -> Report:
    """Replaces the background of a whole video.

    Frames keep their timestamps, size, colour tags and orientation; audio is copied packet for
    packet.  While it is written the output has the name ``OUTPUT.part``; under its own name it
    appears when it is complete.  If the job breaks off, the ``.part`` file stays and plays.

    Args:
        background: ``green``, ``#rrggbb``, ``blur[:sigma]``, a picture or a video.
        alpha_output: where to write the alpha as a gray video of the same frames.
        threads: CPU threads for the network; None leaves the choice to the backend.
        codec, crf, preset: of the composite; None takes the container's defaults.
        audio: copy the audio streams.
        span: only this stretch of the video, without its audio.
        parts: join the outputs from these files, which spans of the same job have made.
        tools: what to use in the place of ``background``, ``model``, ``backend`` and ``threads``.
        observe: see each matte.

    Raises:
        FuseMatteError: see ``fusematte.engine.errors`` for the kinds.
    """
    check_paths(input, output, alpha_output, background)
    with ExitStack() as stack:
        reader = stack.enter_context(Reader(input))
        if tools is None:
            tools = stack.enter_context(open_tools(background, model, backend, threads))
        audio = audio and span is None
        writer = stack.enter_context(
            Writer(output, like=reader, codec=codec, crf=crf, preset=preset, audio=audio)
        )
        alpha_writer = None
        if alpha_output is not None:
            alpha_writer = stack.enter_context(Writer(alpha_output, like=reader, gray=True))
        if parts is not None:
            writers = [w for w in (writer, alpha_writer) if w is not None]
            return Report(frames=join(reader, writers, parts, audio=audio), seconds=0.0, busy={})
        return _process(reader, tools, writer, alpha_writer, span, observe, progress)


@contextmanager
def open_tools(
    background: StrPath, model: StrPath, backend: str, threads: int | None
) -> Iterator[Tools]:
    """Opens the network and the background."""
    with (
        closing(open_background(background)) as scene,
        Matter(model, backend=backend, threads=threads) as matter,
    ):
        yield Tools(matter, scene)


def _process(
    reader: Reader,
    tools: Tools,
    writer: Writer,
    alpha_writer: Writer | None,
    span: Span | None,
    observe: Observe | None,
    progress: Progress | None,
) -> Report:
    background = tools.background

    def matte(frame: Frame) -> tuple[Frame, Matte]:
        found = tools.matter(frame)
        if observe is not None:
            observe(found)
        return frame, found

    def blend(item: tuple[Frame, Matte]) -> Composite:
        return compose(*item, background, with_alpha=alpha_writer is not None)

    # Writing is a stage as well: an interrupt reaches the main thread, which only waits, and no
    # frame is lost halfway through the encoder.
    def write(result: Composite) -> None:
        writer.write(result.frame)
        if alpha_writer is not None and result.alpha is not None:
            alpha_writer.write_gray(_eight_bits(result.alpha, result.frame), result.frame)

    frames = 0
    if span is not None:
        background.begin(span.origin * reader.time_base)
    source = "decode", _stretch(reader, span, matte) if span else _frames(reader, writer)
    stages = ("network", matte), ("composite", blend), ("encode", write)
    with Pipeline(source, *stages) as pipeline:
        for frames, _ in enumerate(pipeline, start=1):
            if progress is not None:
                progress(frames, reader, pipeline.statistics)
        statistics = pipeline.statistics
        return Report(frames=frames, seconds=statistics.elapsed, busy=statistics.busy)


def _eight_bits(alpha: Plane, frame: Frame) -> NDArray[np.uint8]:
    """The alpha plane of a frame of any depth, for the gray video."""
    return alpha if alpha.dtype == np.uint8 else (alpha >> (frame.format.bits - 8)).astype(np.uint8)


def _frames(reader: Reader, writer: Writer) -> Iterator[Frame]:
    """The reader's frames; the packets between them go to the writer as they are."""
    for item in reader.items():
        if isinstance(item, Frame):
            yield item
        else:
            writer.mux(item)


def _stretch(reader: Reader, span: Span, warm_up: Callable[[Frame], object]) -> Iterator[Frame]:
    """The frames of a span; those of its warm-up are worked on here, before any other is given."""
    reader.seek(span.warm_from)
    for frame in reader:
        if span.end is not None and frame.pts >= span.end:
            break
        if frame.pts >= span.begin:
            yield frame
        elif frame.pts >= span.warm_from:
            warm_up(frame)
    if reader.damaged:
        raise TruncatedInputError(f"{reader.path}: is damaged from {span.begin} to {span.end}")


def check_paths(
    input: StrPath, output: StrPath, alpha_output: StrPath | None, background: StrPath
) -> None:
    """Refuses a job that would write over what it reads, or write two things to one place."""
    outputs = [fspath(path) for path in (output, alpha_output) if path is not None]
    for path in outputs:
        for source in (input, background):
            if _same_file(source, path):
                raise UsageError(f"{path}: would be written over what it is made from")
    if len(outputs) == 2 and _same_file(*outputs):
        raise UsageError(f"{outputs[0]}: named for both the composite and the alpha")


def _same_file(a: StrPath, b: StrPath) -> bool:
    if Path(a).exists() and Path(b).exists():
        return Path(a).samefile(b)
    return Path(a).resolve() == Path(b).resolve()
