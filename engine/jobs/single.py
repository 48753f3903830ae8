"""One job in one go: open its input and outputs, process every frame, or join finished parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from os import fspath
from pathlib import Path
from typing import NamedTuple

from av.codec.hwaccel import HWAccel

from fusematte.engine.compositing.backgrounds import (
    Background,
    open_background,
)
from fusematte.engine.compositing.composite import Composite
from fusematte.engine.errors import TruncatedInputError, UsageError
from fusematte.engine.frame import Frame, VideoInfo
from fusematte.engine.jobs.options import JobOptions, StrPath
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


class Tools(NamedTuple):
    """What a job works with; given on from segment to segment, it is opened once."""

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
    """Replaces the background of a video, or of a part of it, in one go.

    Args:
        input, output, options: see ``fusematte.run``.
        reader: the input, where it is open already; it is closed in the end.
        span: only this segment of the video, without its audio.
        tools: what to use in the place of the options' background, model, backend and threads.
        observe: see each matte.

    Raises:
        FuseMatteError: see ``fusematte.engine.errors`` for the kinds.
    """
    check_paths(input, output, options)
    with ExitStack() as stack:
        reader = stack.enter_context(reader or open_input(input, options))
        tools = tools or stack.enter_context(open_tools(options))
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
    """Makes the outputs of a job of files that spans of it have made; returns the frames.

    No network and no background is opened.

    Raises:
        FuseMatteError: as ``run_once``; the parts' own reason if they are not all.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(open_input(input, options))
        outputs = open_outputs(stack, output, reader.info, options)
        return segments.join(reader, outputs.files(), parts, audio=True)


def check(input: StrPath, output: StrPath, options: JobOptions, info: VideoInfo) -> None:
    """Opens and leaves the background and all outputs, so that what cannot be is said at once.

    info: what is known of the input.

    Raises:
        FuseMatteError: as ``run_once``.
    """
    check_paths(input, output, options)
    with ExitStack() as stack:
        open_background(options.background).close()
        open_outputs(stack, output, info, options).files()


def open_input(input: StrPath, options: JobOptions, hardware: HWAccel | None = None) -> Reader:
    """The reader of a job."""
    return Reader(
        input,
        start=options.start,
        end=options.end,
        frame_rate=options.frame_rate,
        hardware=hardware,
    )


@contextmanager
def open_tools(options: JobOptions) -> Iterator[Tools]:
    """Opens the network and the background."""
    with (
        closing(open_background(options.background)) as background,
        Matter(options.model, backend=options.backend, threads=options.threads) as matter,
    ):
        yield Tools(matter, background)


class Outputs(NamedTuple):
    """Where the results of a job go."""

    composite: AnyWriter
    alpha: AnyWriter | None
    foreground: AnyWriter | None
    rgba: AnyWriter | None

    def files(self) -> list[Writer]:
        """The writers, of which all must write video files.

        Raises:
            UsageError: one writes pictures, which are not joined from parts.
        """
        writers = [writer for writer in self if writer is not None]
        for writer in writers:
            if not isinstance(writer, Writer):
                raise UsageError(f"{writer.path}: a sequence cannot be joined from parts")
        return [writer for writer in writers if isinstance(writer, Writer)]

    def stages(self) -> Iterator[Stage]:
        """A pipeline stage for each: encoders run beside each other.

        Writing is a stage because an interrupt reaches the main thread, which only waits, and no
        frame is lost halfway through an encoder.
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

    whole: it is the whole video and no segment, so sound and subtitles come along.

    Raises:
        UsageError: an option or a combination that cannot be.
        OutputError: one cannot be written.
    """
    transparent = fspath(options.background) == "transparent"
    if options.alpha_mode is not None and not transparent and options.rgba_output is None:
        raise UsageError("alpha mode: no output has an alpha; name background 'transparent'")
    open_one = partial(open_output, like=info)
    mode = options.alpha_mode

    def opened(writer: AnyWriter) -> AnyWriter:
        stack.push(writer)
        return writer

    composite = opened(
        open_one(
            output,
            content="rgba" if transparent else "color",
            alpha_mode=mode if transparent else None,
            encoding=options.encoding,
            audio=audio_mode(options.audio) if whole else "none",
            subtitles=whole,
            hardware=encoder,
        )
    )
    alpha, foreground, rgba = options.alpha_output, options.foreground_output, options.rgba_output
    return Outputs(
        composite,
        opened(open_one(alpha, content="gray")) if alpha else None,
        opened(open_one(foreground)) if foreground else None,
        opened(open_one(rgba, content="rgba", alpha_mode=mode)) if rgba else None,
    )


def _write(name: str, writer: AnyWriter, result: Composite) -> Composite:
    if name == "alpha":
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
    """Every frame from the reader through the stages to the outputs."""
    if span is not None:
        stages.background.begin(span.origin * reader.time_base)
        source = _segment(reader, span, stages.options.lookahead)
    else:
        source = _frames(reader, outputs)

    def wanted(ready: list[Matted]) -> list[Matted]:
        """What is of the span; the frames around it are there for those within."""
        if span is None:
            return ready
        for matted in ready:
            if not span.has(matted.frame.pts):
                stages.drop(matted)
        return [matted for matted in ready if span.has(matted.frame.pts)]

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
    """The reader's frames; the packets between them go to the composite as they are."""
    for item in reader.items():
        if isinstance(item, Frame):
            yield item
        else:
            outputs.composite.mux(item)


def _segment(reader: Reader, span: Span, lookahead: int) -> Iterator[Frame]:
    """The frames of a span; those of its warm-up go before them, those that are looked ahead to
    come after."""
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
        raise TruncatedInputError(f"{reader.name}: is damaged from {span.begin} to {span.end}")


def check_paths(input: StrPath, output: StrPath, options: JobOptions) -> None:
    """Refuses a job that would write over what it reads, or write two things to one place.

    Raises:
        UsageError: it would.
    """
    names = [fspath(path) for path in (output, *options.further_outputs.values())]
    for path in (name for name in names if not is_stdout(name)):
        for source in (input, options.background):
            if _same_file(source, path) or _within(source, path):
                raise UsageError(f"{path}: would be written over what it is made from")
    if sum(is_stdout(path) for path in names) > 1:
        raise UsageError("standard output has room for one output; name files for the others")
    for number, path in enumerate(names):
        if any(_same_file(path, other) for other in names[:number]):
            raise UsageError(f"{path}: named for both of two outputs; give each its own")


def _same_file(a: StrPath, b: StrPath) -> bool:
    if Path(a).exists() and Path(b).exists():
        return Path(a).samefile(b)
    return Path(a).resolve() == Path(b).resolve()


def _within(folder: StrPath, path: StrPath) -> bool:
    """Whether pictures would come to lie among those of a folder that is read."""
    return (
        is_picture_sequence(path)
        and Path(folder).is_dir()
        and _same_file(folder, Path(path).parent)
    )
