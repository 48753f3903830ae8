"""A single job: opens input and outputs, and processes every frame or joins finished segments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from os import fspath
from pathlib import Path
from typing import NamedTuple

from av.codec.hwaccel import HWAccel

from fusematte.engine.compositing.backgrounds import (
    Background,
    content_over,
    open_background,
)
from fusematte.engine.compositing.composite import Composite
from fusematte.engine.errors import TruncatedInputError, UsageError
from fusematte.engine.frame import Frame, VideoInfo
from fusematte.engine.jobs.options import JobOptions, StrPath
from fusematte.engine.jobs.prompts import choose
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media import segments
from fusematte.engine.media.audio import audio_mode
from fusematte.engine.media.image_sequence import is_picture_sequence
from fusematte.engine.media.outputs import AnyWriter, open_output
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.segments import FinishedSegments, Span
from fusematte.engine.media.writer import Writer, is_stdout
from fusematte.engine.pipeline import Pipeline, Stage, Statistics
from fusematte.engine.stages.contract import Matted, Observe, Stages
from fusematte.engine.stages.cpu import CpuStages
from fusematte.engine.stages.gpu import take_gpu


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a finished job.

    frames: number of frames written; seconds: wall time; busy: busy seconds per stage.
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
"""Called after each frame with the number of frames written so far, the reader and statistics."""


class Tools(NamedTuple):
    """The network and the background of a job; its segments share them."""

    matter: Matter
    background: Background


def run_once(
    input: StrPath,
    output: StrPath,
    options: JobOptions,
    *,
    reader: Reader | None = None,
    span: Span | None = None,
    tools: Tools | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
) -> Report:
    """Replaces the background of a video, or of one segment of it.

    Args:
        input, output, options: see ``fusematte.run``.
        reader: the input, if it is already open; it is closed at the end.
        span: process only this segment of the video, without audio.
        tools: used instead of the options' background, model, backend and threads.
        observe: called with each matte.

    Raises:
        FuseMatteError: see ``fusematte.engine.errors`` for the kinds.
    """
    check_paths(input, output, options)
    with ExitStack() as stack:
        reader = stack.enter_context(reader or open_input(input, options))
        if tools is None:
            tools = stack.enter_context(open_tools(options))
            choose_in(tools.matter, reader, input, options)
        wanted = options.stages(observed=observe is not None)
        gpu = take_gpu(
            stack,
            reader,
            partial(open_input, input, options),
            *tools,
            wanted,
            options.encoding,
            observe,
        )
        reader, encoder = (reader, None) if gpu is None else (gpu.reader, gpu.encoder)
        outputs = open_outputs(stack, output, reader.info, options, encoder, whole=span is None)
        stages = CpuStages(*tools, wanted, observe) if gpu is None else gpu.stages
        return _process(reader, stages, outputs, span, progress)


def join(input: StrPath, output: StrPath, options: JobOptions, parts: FinishedSegments) -> int:
    """Joins the files of finished segments into the outputs of a job; returns the frame count.

    Neither network nor background is opened.

    Raises:
        FuseMatteError: as ``run_once``; ``parts.reason`` if segments are missing.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(open_input(input, options))
        outputs = open_outputs(stack, output, reader.info, options)
        return segments.join(reader, outputs.files(), parts, audio=True)


def check(input: StrPath, output: StrPath, options: JobOptions, info: VideoInfo) -> None:
    """Opens and abandons the background and all outputs, so that errors are raised at the start.

    info: properties of the input.

    Raises:
        FuseMatteError: as ``run_once``.
    """
    check_paths(input, output, options)
    with ExitStack() as stack:
        open_background(options.background).close()
        open_outputs(stack, output, info, options).files()


def open_input(input: StrPath, options: JobOptions, hardware: HWAccel | None = None) -> Reader:
    """Opens the input of a job."""
    return Reader(
        input,
        start=options.start,
        end=options.end,
        frame_rate=options.frame_rate,
        hardware=hardware,
    )


def choose_in(matter: Matter, reader: Reader, input: StrPath, options: JobOptions) -> None:
    """Lets the network follow what the options say is to be kept.

    reader: the input, at its beginning.

    Raises:
        FuseMatteError: as ``run_once``.
    """
    once = not Path(input).exists()
    reopen = None if once else partial(open_input, input, options)
    choose(matter, reader, *options.selection, reopen)


@contextmanager
def open_tools(options: JobOptions) -> Iterator[Tools]:
    """Opens the network and the background."""
    with (
        closing(open_background(options.background)) as background,
        Matter(
            options.model,
            backend=options.backend,
            threads=options.threads,
            quality=options.quality,
        ) as matter,
    ):
        yield Tools(matter, background)


class Outputs(NamedTuple):
    """The writers of a job."""

    composite: AnyWriter
    alpha: AnyWriter | None
    foreground: AnyWriter | None
    rgba: AnyWriter | None

    def files(self) -> list[Writer]:
        """The writers, if all of them write video files.

        Raises:
            UsageError: one writes pictures, which cannot be joined from segments.
        """
        writers = [writer for writer in self if writer is not None]
        for writer in writers:
            if not isinstance(writer, Writer):
                raise UsageError.at(writer.path, "a sequence cannot be joined from segments")
        return [writer for writer in writers if isinstance(writer, Writer)]

    def stages(self) -> Iterator[Stage]:
        """A pipeline stage for each writer, so that encoders run in parallel.

        With writing in its own thread, an interrupt, which reaches the main thread, cannot lose a
        frame inside an encoder.
        """
        for name, writer in self._asdict().items():
            if writer is not None:
                stage = "encode" if name == "composite" else f"encode {name}"
                yield Stage(stage, partial(_write, name, writer))


def open_outputs(
    stack: ExitStack,
    output: StrPath,
    info: VideoInfo,
    options: JobOptions,
    encoder: HWAccel | None = None,
    *,
    whole: bool = True,
) -> Outputs:
    """Opens the writers of a job; ``stack`` completes or abandons them.

    whole: the whole video, not a segment: audio and subtitles are copied.

    Raises:
        UsageError: an option or a combination of options is invalid.
        OutputError: an output cannot be written.
    """
    content, mode = content_over(options.background), options.alpha_mode
    if mode is not None and content != "rgba" and options.rgba_output is None:
        raise UsageError(
            "--alpha-mode: no output has an alpha",
            remedy="use --background transparent or --rgba-output",
            option="alpha_mode",
        )

    composite = open_output(
        output,
        info,
        content=content,
        alpha_mode=mode if content == "rgba" else None,
        encoding=options.encoding,
        audio=audio_mode(options.audio) if whole else "none",
        subtitles=whole,
        hardware=encoder,
    )
    stack.push(composite)
    alpha, foreground, rgba = options.alpha_output, options.foreground_output, options.rgba_output
    return Outputs(
        composite,
        stack.push(open_output(alpha, info, content="gray")) if alpha else None,
        stack.push(open_output(foreground, info)) if foreground else None,
        stack.push(open_output(rgba, info, content="rgba", alpha_mode=mode)) if rgba else None,
    )


def _write(name: str, writer: AnyWriter, result: Composite) -> Composite:
    if writer.content == "gray":
        assert result.alpha is not None
        writer.write_gray(result.alpha, result.frame)
    elif name == "composite":
        writer.write(result.frame)
    else:
        assert result.foreground is not None
        writer.write(result.foreground)
    return result


def _process(
    reader: Reader,
    stages: Stages,
    outputs: Outputs,
    span: Span | None,
    progress: Progress | None,
) -> Report:
    """Runs every frame from the reader through the stages to the writers."""
    if span is not None:
        stages.background.begin(span.origin * reader.time_base)
        source = _segment(reader, span, stages.options.lookahead)
    else:
        source = _frames(reader, outputs)

    def wanted(ready: Iterable[Matted]) -> Iterator[Matted]:
        """The frames of the span; those around it were only needed for their neighbours."""
        for matted in ready:
            if span is None or span.has(matted.frame.pts):
                yield matted
            else:
                stages.drop(matted)

    network = Stage(
        "network", lambda frame: wanted(stages.begin(frame)), lambda: wanted(stages.drain())
    )
    composite = Stage("composite", stages.finish)
    frames = 0
    with Pipeline(("decode", source), network, composite, *outputs.stages()) as pipeline:
        for frames, _ in enumerate(pipeline, start=1):
            if progress is not None:
                progress(frames, reader, pipeline.statistics)
        statistics = pipeline.statistics
        return Report(frames=frames, seconds=statistics.elapsed, busy=statistics.busy)


def _frames(reader: Reader, outputs: Outputs) -> Iterator[Frame]:
    """The reader's frames; the packets between them are passed to the main output."""
    for item in reader.items():
        if isinstance(item, Frame):
            yield item
        else:
            outputs.composite.mux(item)


def _segment(reader: Reader, span: Span, lookahead: int) -> Iterator[Frame]:
    """The frames of a span, preceded by its warm-up and followed by ``lookahead`` frames."""
    reader.seek(span.warm_from)
    opens, after = span.begin == span.origin, 0
    for frame in reader:
        if span.end is not None and frame.pts >= span.end:
            after += 1
            if after > lookahead:
                break
        if opens or frame.pts >= span.warm_from:
            yield frame
    if reader.damaged:
        raise TruncatedInputError.at(reader.name, f"is damaged from {span.begin} to {span.end}")


def check_paths(input: StrPath, output: StrPath, options: JobOptions) -> None:
    """Checks that a job does not overwrite its inputs or write two outputs to one path.

    Raises:
        UsageError: it would.
    """
    names = [fspath(path) for path in (output, *options.further_outputs.values())]
    for path in (name for name in names if not is_stdout(name)):
        for source in (input, options.background):
            if _same_file(source, path) or _within(source, path):
                raise UsageError.at(
                    path, "would overwrite its own input", remedy="choose another output"
                )
    if sum(is_stdout(path) for path in names) > 1:
        raise UsageError(
            "standard output can take one output only", remedy="name files for the others"
        )
    for number, path in enumerate(names):
        if any(_same_file(path, other) for other in names[:number]):
            raise UsageError.at(path, "is the name of two outputs", remedy="give each its own name")


def _same_file(a: StrPath, b: StrPath) -> bool:
    if Path(a).exists() and Path(b).exists():
        return Path(a).samefile(b)
    return Path(a).resolve() == Path(b).resolve()


def _within(folder: StrPath, path: StrPath) -> bool:
    """Whether pictures would be written into a folder of pictures that is the input."""
    return (
        is_picture_sequence(path)
        and Path(folder).is_dir()
        and _same_file(folder, Path(path).parent)
    )
