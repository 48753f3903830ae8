"""Segmented jobs: long videos are processed in segments, so that a crash loses at most one.

The finished segments (``media.segments``) and a journal are kept in the folder
``OUTPUT.segments`` until they are joined.  ``resume`` continues with the missing segments, even
after the process was killed.  Workers (``jobs.workers``) process segments side by side.  Short
videos, inputs that cannot be split and outputs that cannot be joined are processed as a whole.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import version
from os import fspath
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.errors import (
    FuseMatteError,
    OutputError,
    TruncatedInputError,
    UsageError,
)
from fusematte.engine.jobs.journal import FORMAT, Header, Journal, Record
from fusematte.engine.jobs.measures import Measure, Measures
from fusematte.engine.jobs.options import JobOptions, StrPath
from fusematte.engine.jobs.single import (
    Progress,
    Report,
    Tools,
    check,
    choose_in,
    join,
    open_input,
    open_tools,
    run_once,
)
from fusematte.engine.jobs.workers import Workers
from fusematte.engine.matting.following import Followed
from fusematte.engine.matting.matter import Matter, Memory
from fusematte.engine.media import segments
from fusematte.engine.media.files import check_name, is_folder, part_of
from fusematte.engine.media.locks import FolderLock, sync_file, sync_folder
from fusematte.engine.media.notices import Notice, ToldOnce, collected
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.segments import (
    JOINABLE,
    FinishedSegments,
    SegmentPlan,
    Span,
    is_playable,
)
from fusematte.engine.media.writer import is_special, is_stdout
from fusematte.engine.models import Bundle, load_bundle
from fusematte.engine.pipeline import Statistics

log = logging.getLogger(__name__)


class SegmentedJob:
    """One input and its outputs, processed in segments where possible.

    whole_because: why the job cannot be split into segments; None if it can.
    measures: the measures of each frame, in order, once the job has run.
    """

    def __init__(
        self, input: StrPath, output: StrPath, options: JobOptions, *, measured: bool = False
    ) -> None:
        self.input, self.output, self.measured = input, Path(output), measured
        self.outputs = {"output": self.output, **options.further_outputs}
        for path in self.outputs.values():
            if not is_stdout(path):
                check_name(path)
        self.options = options
        self.folder = segments_of(self.output)
        self.measures: list[Measure] = []
        self._notices = ToldOnce()
        self.whole_because = self._why_whole()

    def _why_whole(self) -> str | None:
        if not Path(self.input).is_file():
            return f"{self.input} is not a file"
        if any(map(is_special, self.outputs.values())):
            return "an output is a pipe or a device"
        if self.options.selects and self.options.stages().smoothing:
            return "smoothing does not follow a choice from segment to segment"
        other = [path for path in self.outputs.values() if path.suffix.lower() not in JOINABLE]
        return f"{other[0]} cannot be joined from segments" if other else None

    def open(self) -> Reader:
        """Opens the input."""
        with self._notices.listening():
            return open_input(self.input, self.options)

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return load_bundle(self.options.model)

    def run_at_once(self, progress: Progress | None, reader: Reader | None = None) -> Report:
        """Runs the job as a whole; ``reader``: its input, if that is already open.

        Raises:
            OutputError: another job writes the same output.
        """
        if is_folder(self.folder):
            FolderLock(self.folder).close()
        measures = Measures() if self.measured else None
        done = run_once(
            self.input,
            self.output,
            self.options,
            reader=reader,
            observe=measures,
            progress=progress,
        )
        self.measures = measures.rows if measures else []
        return done

    def plan(self, reader: Reader) -> SegmentPlan:
        """Splits the input into segments, after checking options and outputs."""
        with self._notices.listening():
            check(self.input, self.output, self.options, reader.info)
        return segments.plan(reader)

    def warm_up(self, threads: int) -> None:
        """Tunes the network at its first use, once for all workers of this machine, which find the
        result in the cache.

        Raises:
            FuseMatteError: it cannot be opened.
        """
        options = self.options
        Matter(options.model, backend=options.backend, threads=options.threads or threads).close()

    def run(
        self, plan: SegmentPlan, resume: bool, workers: Workers | None, progress: Progress | None
    ) -> Report:
        """Processes the missing segments and joins all of them."""
        header = self._header(plan)
        with closing(Journal(self.folder)) as journal:
            done = self._begin(journal, header, resume)
            missing = [index for index in range(len(plan.spans)) if index not in done]
            meter = _Meter(progress, sum(record.frames for record in done.values()))
            try:
                for record in done.values():
                    self._tell(record)
                for record in self._work(plan, missing, workers, meter):
                    done[record.segment] = record
                    journal.add(record)
                    self._tell(record)
                report = self._complete(plan, done, meter)
            except (FuseMatteError, KeyboardInterrupt) as error:
                if self._salvage(done, error):
                    journal.remove()
                raise
            journal.remove()
            return report

    def _header(self, plan: SegmentPlan) -> Header:
        settings = self.options.settings()
        for name in ("background", "keep_mask", "prompts"):
            file = Path(getattr(self.options, name) or "")
            if file.is_file():
                stat = file.stat()
                settings[f"{name} file"] = f"{stat.st_size} bytes, {stat.st_mtime_ns}"
        settings["model version"] = self.bundle.manifest["sha256"]
        settings["report"] = self.measured
        return {
            "format": FORMAT,
            "fusematte": version("fusematte"),
            "input": plan.digest,
            "spans": [list(span) for span in plan.spans],
            "options": settings,
        }

    def _begin(self, journal: Journal, header: Header, resume: bool) -> dict[int, Record]:
        if not resume:
            if self.folder.exists():
                log.info("%s: the segments of an earlier job are deleted", self.folder)
            journal.begin(header)
            return {}
        found = journal.read()
        if found is None:
            log.info("%s: there is nothing to resume, so the job starts over", self.output)
            journal.begin(header)
            return {}
        _check_same(self.folder, self.input, found[0], header)
        done = {
            record.segment: record
            for record in found[1]
            if 0 <= record.segment < len(header["spans"]) and self._is_there(record)
        }
        log.info("%s: %d segments are already done", self.output, len(done))
        return done

    def _is_there(self, record: Record) -> bool:
        """Whether a segment's files are complete: after a power cut they may be empty."""
        if record.frames == 0:
            return True
        return all(
            file.is_file()
            and file.stat().st_size == record.sizes.get(name)
            and segments.count_frames(file) >= record.frames
            for name, file in self._names(record.segment).items()
        )

    def _tell(self, record: Record) -> None:
        """Logs a segment's warnings; they name the input as ``_task`` does."""
        resolved, given = _resolved(self.input), fspath(self.input)
        self._notices.tell(
            Notice(template, tuple(given if value == resolved else value for value in values))
            for template, values in record.notices
        )

    def _names(self, index: int) -> dict[str, Path]:
        """The files of one segment, by the keywords of the outputs."""
        return {
            name: self.folder / f"{index:06d}-{name}{path.suffix.lower()}"
            for name, path in self.outputs.items()
        }

    def _files(self, index: int) -> list[Path]:
        return list(self._names(index).values())

    def _work(
        self, plan: SegmentPlan, missing: list[int], workers: Workers | None, meter: _Meter
    ) -> Iterator[Record]:
        if not missing:  # only joining is left: no network is opened
            return
        if workers is None:
            yield from self._work_here(plan, missing, meter)
            return
        threads = self.options.threads or workers.threads
        tasks = [self._task(index, plan.spans[index], threads) for index in missing]
        with self.open() as reader:
            for record in workers.map(work, tasks, threads, self.options.backend):
                meter.add(record.frames, reader)
                yield record

    def _task(self, index: int, span: Span, threads: int | None = None) -> _Task:
        """The arguments of ``work`` for one segment, valid on any machine."""
        outputs: dict[str, Any] = {k: path.resolve() for k, path in self._names(index).items()}
        output = outputs.pop("output")
        options = replace(self.options, threads=threads, **outputs)
        return _resolved(self.input), output, options, index, span, self.measured

    def _work_here(self, plan: SegmentPlan, missing: list[int], meter: _Meter) -> Iterator[Record]:
        with open_tools(self.options) as tools:
            if self.options.selects:
                with self._notices.listening(), self.open() as reader:
                    choose_in(tools.matter, reader, self.input, self.options)
            for index in missing:
                span = self._restore(tools, index, plan.spans[index])
                meter.start()
                yield work(*self._task(index, span), tools=tools, progress=meter)
                self._memory(index - 1).unlink(missing_ok=True)

    def _restore(self, tools: Tools, index: int, span: Span) -> Span:
        """Restores the network's temporal state at the end of the previous segment.

        Smoothing has further state that is not saved: with it, a segment is always warmed up.
        """
        smooths = self.options.stages().smoothing
        memory = None if smooths else _load_memory(self._memory(index - 1))
        if memory is None and self.options.selects and index > 0:
            raise OutputError.at(
                self._memory(index - 1),
                "is missing or damaged, and with it who was selected",
                remedy="run without --resume to start anew",
            )
        tools.matter.memory = memory
        if memory is None:
            return span
        return span._replace(warm_from=span.begin)

    def _memory(self, index: int) -> Path:
        return memory_of(self._names(index)["output"])

    def _complete(self, plan: SegmentPlan, done: dict[int, Record], meter: _Meter) -> Report:
        records = [done[index] for index in range(len(plan.spans))]
        frames = sum(record.frames for record in records)
        self.measures = [measure for record in records for measure in record.measures]
        reason = None
        if any(record.damaged for record in records):
            reason = TruncatedInputError.at(
                self.input, f"is truncated or damaged: {frames} frames could be read"
            )
        self._join(range(len(records)), reason, frames)
        return Report(frames=frames, seconds=meter.seconds, busy=_total(records))

    def _join(
        self, indices: Iterable[int], reason: BaseException | None, frames: int | None = None
    ) -> None:
        files: dict[Path, list[Path]] = {path: [] for path in self.outputs.values()}
        for index in indices:
            for path, file in zip(files, self._files(index), strict=True):
                found = [f for f in (file, part_of(file)) if f.exists() and is_playable(f)]
                files[path].extend(found[:1])
        with self._notices.listening():
            join(self.input, self.output, self.options, FinishedSegments(files, reason, frames))

    def _salvage(self, done: dict[int, Record], reason: BaseException) -> bool:
        """Makes ``.part`` files of the finished segments, up to the first missing one.

        Returns whether nothing is left to resume.
        """
        if isinstance(reason, TruncatedInputError):  # the join has already made them
            return True
        count = next(index for index in range(len(done) + 1) if index not in done)
        started = any(part_of(file).exists() for file in self._files(count))
        if not done and not started:
            return True
        with suppress(FuseMatteError, KeyboardInterrupt):  # the reason itself, or a full disk
            self._join(range(count + 1), reason)
        for part in map(part_of, self.outputs.values()):
            if part.is_file() and not part.is_symlink() and not is_playable(part):
                part.unlink(missing_ok=True)
        return False


_Task = tuple[str, Path, JobOptions, int, Span, bool]


def work(
    input: str,
    output: Path,
    options: JobOptions,
    index: int,
    span: Span,
    measured: bool,
    *,
    tools: Tools | None = None,
    progress: Progress | None = None,
) -> Record:
    """Makes the files of one segment; runs on this machine or on one of a cluster."""
    counted = 0

    def count(frames: int, reader: Reader, statistics: Statistics) -> None:
        nonlocal counted
        counted = frames
        if progress is not None:
            progress(frames, reader, statistics)

    measures = Measures(span) if measured else None
    busy: dict[str, float] = {}
    files, damaged = {"output": output, **options.further_outputs}, False
    try:
        with collected() as notices:
            busy = run_once(
                input, output, options, span=span, tools=tools, observe=measures, progress=count
            ).busy
    except TruncatedInputError:  # the frames before the damage make a valid segment
        damaged = True
        for file in files.values():
            if part_of(file).exists():
                part_of(file).replace(file)
    if tools is not None and tools.matter.memory is not None:
        _save_memory(memory_of(output), tools.matter.memory)
    sizes = _seal(files, counted)
    # Those about the outputs were told when these were checked.
    names = set(map(fspath, files.values()))
    news = [notice for notice in notices if names.isdisjoint(notice.values)]
    rows = measures.rows if measures else []
    return Record(index, counted, busy, damaged, rows, sizes, news)


def _resolved(path: StrPath) -> str:
    return fspath(Path(path).resolve())


def _seal(files: dict[str, Path], frames: int) -> dict[str, int]:
    """Flushes the files of a segment to disk, against power cuts; returns their sizes.

    Raises:
        OutputError: a file lacks frames.
    """
    if not frames:
        return {}
    for file in files.values():
        if (found := segments.count_frames(file)) < frames:
            raise OutputError.at(file, f"contains only {found} of {frames} frames")
        sync_file(file)
    sync_folder(next(iter(files.values())).parent)
    return {name: file.stat().st_size for name, file in files.items()}


def segments_of(output: StrPath) -> Path:
    """The folder of a job's segments."""
    return Path(f"{output}.segments")


def memory_of(path: Path) -> Path:
    """The file of the network's temporal state at the end of a segment."""
    return path.with_suffix(".npz")


def _load_memory(path: Path) -> Memory | None:
    """The saved state; None if there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path) as saved:
            alpha, luma, time = (saved[name] for name in ("alpha", "luma", "time"))
            choice = Followed.restored(lambda name: saved[f"choice_{name}"])
        return Memory(alpha, luma, Fraction(*map(int, time)), choice)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, ZeroDivisionError):
        log.info("%s: is damaged; the segment is warmed up instead", path)
        return None


def _save_memory(path: Path, memory: Memory) -> None:
    partial, time = part_of(path), np.array(memory.time.as_integer_ratio(), np.int64)
    try:
        with partial.open("wb") as file:
            parts: dict[str, NDArray[Any]] = {
                "alpha": memory.alpha,
                "luma": memory.luma,
                "time": time,
            }
            parts |= {f"choice_{name}": part for name, part in memory.choice.saved().items()}
            np.savez(file, allow_pickle=False, **parts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        log.warning("%s: cannot be written (%s); a resumed job would warm up instead", path, error)


def _total(records: list[Record]) -> dict[str, float]:
    busy: dict[str, float] = {}
    for record in records:
        for stage, seconds in record.busy.items():
            busy[stage] = busy.get(stage, 0.0) + seconds
    return busy


def _check_same(folder: Path, input: StrPath, old: Header, new: Header) -> None:
    """Raises UsageError if the interrupted job differs from the one to be resumed."""
    remedy = "run without --resume to start over"
    if (old.get("format"), old.get("fusematte")) != (new["format"], new["fusematte"]):
        raise UsageError.at(folder, "was started by another version of fusematte", remedy=remedy)
    if old.get("input") != new["input"]:
        raise UsageError.at(
            input, f"is not the video that {folder} was started with", remedy=remedy
        )
    before, now = old["options"], new["options"]
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise UsageError.at(
                folder,
                f"was started with {name} {before.get(name, 'by default')}, "
                f"not {now.get(name, 'by default')}",
                option=name,
                remedy=remedy,
            )
    if old.get("spans") != new["spans"]:
        raise UsageError.at(folder, "was split differently", remedy=remedy)


class _Meter:
    """Converts the progress of segments to that of the whole job."""

    def __init__(self, progress: Progress | None, skipped: int) -> None:
        self._progress = progress
        self._total = Statistics(skipped=skipped)
        self._before = self._frames = skipped

    @property
    def seconds(self) -> float:
        return self._total.elapsed

    def start(self) -> None:
        """Another segment starts."""
        self._before = self._frames

    def __call__(self, frames: int, reader: Reader, statistics: Statistics) -> None:  # noqa: ARG002
        self._frames = self._before + frames
        self._tell(reader)

    def add(self, frames: int, reader: Reader) -> None:
        """A worker has finished a segment."""
        self._frames += frames
        self._tell(reader)

    def _tell(self, reader: Reader) -> None:
        if self._progress is not None:
            self._progress(self._frames, reader, self._total)
