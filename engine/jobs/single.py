"""The main job: a video file in, the people of it over another background out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

from av.codec.hwaccel import HWAccel

from fusematte.engine.compositing.backgrounds import (
    Background,
    TransparentBackground,
    open_background,
)
from fusematte.engine.compositing.composite import Composite
from fusematte.engine.compositing.look import Look
from fusematte.engine.errors import TruncatedInputError, UsageError
from fusematte.engine.frame import Frame
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.audio import AudioMode, audio_mode
from fusematte.engine.media.formats import Content, Encoding
from fusematte.engine.media.image_sequence import AlphaMode, is_picture_sequence
from fusematte.engine.media.outputs import AnyWriter, open_output
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.segments import Parts, Span, join
from fusematte.engine.media.writer import Writer, is_stdout
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.pipeline import Pipeline, Stage, Statistics, network_threads
from fusematte.engine.stages.contract import Observe, Tools, Wishes, Work
from fusematte.engine.stages.cpu import CpuStages
from fusematte.engine.stages.gpu import take_gpu

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


def run(
    input: StrPath,
    output: StrPath,
    *,
    background: StrPath = "green",
    light_wrap: float = 0.0,
    despill: float = 0.0,
    alpha_output: StrPath | None = None,
    foreground_output: StrPath | None = None,
    rgba_output: StrPath | None = None,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    frame_rate: Fraction | None = None,
    model: StrPath = DEFAULT_MODEL,
    backend: str = "auto",
    threads: int | None = None,
    codec: str | None = None,
    pixel_format: str | None = None,
    bitrate: int | None = None,
    crf: int | None = None,
    preset: str | None = None,
    alpha_mode: AlphaMode | None = None,
    audio: AudioMode | bool = "convert",
    span: Span | None = None,
    parts: Parts | None = None,
    tools: Tools | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
) -> Report:
    """Replaces the background of a whole video.

    Frames keep their timestamps, size, colour tags and orientation; sound and subtitles are copied
    packet for packet.  While it is written an output has the name ``OUTPUT.part``; under its own
    name it appears when it is complete.  If the job breaks off, the ``.part`` file stays and plays.

    What an output is follows from its name: a video file, ``-`` for standard output, or a sequence
    of pictures such as ``out_%05d.png``.

    Args:
        input: a video file, a URL, a folder of pictures, or a pattern of their names; ``-`` for
            standard input.
        background: ``green``, ``#rrggbb``, ``blur[:sigma]``, ``transparent``, a picture or a video;
            over ``transparent`` the output is the people's own colours with their alpha.
        light_wrap: how much of the background's light shines over the people's edges, 0 to 1.
        despill: how much of the old background's hue is taken off the people, 0 to 1.
        alpha_output: where to write the alpha as a gray video of the same frames.
        foreground_output: where to write the people's own colours, with nothing cut out.
        rgba_output: where to write those colours with their alpha.
        start, end: seconds from the video's beginning; what lies between becomes the output.
        frame_rate: pictures per second of an input of pictures.
        threads: CPU threads for the network; None takes half of the processors.
        codec, pixel_format, bitrate, crf, preset: of ``output``; None takes the defaults of its
            container.
        alpha_mode: of sequences with an alpha: "straight" or "premultiplied".
        audio: "convert" (or True) copies the audio streams and converts those that the container
            cannot hold, "copy" refuses these, "none" (or False) leaves audio out.
        span: only this stretch of the video, without its audio.
        parts: join the outputs from these files, which spans of the same job have made.
        tools: what to use in the place of ``background``, ``model``, ``backend`` and ``threads``.
        observe: see each matte.

    Raises:
        FuseMatteError: see ``fusematte.engine.errors`` for the kinds.
    """
    look = Look(light_wrap=light_wrap, despill=despill)
    check_paths(input, output, alpha_output, foreground_output, rgba_output, background=background)
    encoding = Encoding(
        codec=codec, pixel_format=pixel_format, bitrate=bitrate, crf=crf, preset=preset
    )
    with ExitStack() as stack:
        open_reader = partial(Reader, input, start=start, end=end, frame_rate=frame_rate)
        reader = stack.enter_context(open_reader())
        if tools is None:
            tools = stack.enter_context(open_tools(background, model, backend, threads))
        transparent = isinstance(tools.background, TransparentBackground)
        if alpha_mode is not None and not transparent and rgba_output is None:
            raise UsageError("alpha mode: no output has an alpha; name background 'transparent'")
        wishes = Wishes(
            alpha=alpha_output is not None,
            foreground=foreground_output is not None or rgba_output is not None,
            look=look,
            mattes=observe is not None,
            codec=codec,
            pixel_format=pixel_format,
        )
        gpu = None
        if parts is None:
            reopen: Callable[[HWAccel], Reader] = lambda h: open_reader(hardware=h)  # noqa: E731
            gpu = take_gpu(stack, reader, reopen, tools.matter, tools.background, wishes)
        reader = reader if gpu is None else gpu.reader
        audio, subtitles = audio_mode(audio) if span is None else "none", span is None

        def opened(path: StrPath, content: Content, **options: Any) -> AnyWriter:  # noqa: ANN401
            mode = alpha_mode if content == "rgba" else None
            writer = open_output(path, reader, content=content, alpha_mode=mode, **options)
            stack.push(writer)
            return writer

        writers = Writers(
            composite=opened(
                output,
                "rgba" if transparent else "color",
                encoding=encoding,
                audio=audio,
                subtitles=subtitles,
                hardware=None if gpu is None else gpu.encoder,
            ),
            alpha=opened(alpha_output, "gray") if alpha_output else None,
            foreground=opened(foreground_output, "color") if foreground_output else None,
            rgba=opened(rgba_output, "rgba") if rgba_output else None,
        )
        if parts is not None:
            frames = join(reader, writers.files(), parts, audio=True)
            return Report(frames=frames, seconds=0.0, busy={})
        work: Work = CpuStages(tools, wishes, observe) if gpu is None else gpu.stages
        return _process(reader, tools.background, work, writers, span, progress)


@contextmanager
def open_tools(
    background: StrPath, model: StrPath, backend: str, threads: int | None
) -> Iterator[Tools]:
    """Opens the network and the background."""
    with (
        closing(open_background(background)) as scene,
        Matter(model, backend=backend, threads=network_threads(threads)) as matter,
    ):
        yield Tools(matter, scene)


class Writers(NamedTuple):
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
                yield stage, partial(_write, name, writer)


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
    background: Background,
    work: Work,
    writers: Writers,
    span: Span | None,
    progress: Progress | None,
) -> Report:
    frames = 0
    if span is not None:
        background.begin(span.origin * reader.time_base)
    source = "decode", _stretch(reader, span, work.warm_up) if span else _frames(reader, writers)
    stages: list[Stage] = [("network", work.begin), ("composite", work.finish), *writers.stages()]
    with Pipeline(source, *stages) as pipeline:
        for frames, _ in enumerate(pipeline, start=1):
            if progress is not None:
                progress(frames, reader, pipeline.statistics)
        statistics = pipeline.statistics
        return Report(frames=frames, seconds=statistics.elapsed, busy=statistics.busy)


def _frames(reader: Reader, writers: Writers) -> Iterator[Frame]:
    """The reader's frames; the packets between them go to the composite as they are."""
    for item in reader.items():
        if isinstance(item, Frame):
            yield item
        else:
            writers.composite.mux(item)


def _stretch(reader: Reader, span: Span, warm_up: Callable[[Frame], object]) -> Iterator[Frame]:
    """The frames of a span; those of its warm-up are worked on here, before any other is given."""
    reader.seek(span.warm_from)
    opens = span.begin == span.origin
    for frame in reader:
        if span.end is not None and frame.pts >= span.end:
            break
        if opens or frame.pts >= span.begin:
            yield frame
        elif frame.pts >= span.warm_from:
            warm_up(frame)
    if reader.damaged:
        raise TruncatedInputError(f"{reader.name}: is damaged from {span.begin} to {span.end}")


def check_paths(input: StrPath, *outputs: StrPath | None, background: StrPath) -> None:
    """Refuses a job that would write over what it reads, or write two things to one place."""
    names = [fspath(path) for path in outputs if path is not None]
    for path in (name for name in names if not is_stdout(name)):
        for source in (input, background):
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
