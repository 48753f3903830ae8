"""Many files, one after the other or shared by a cluster: ``fusematte batch``.

A folder is searched for videos, in its folders too.  A manifest is a text file with one input per
line, relative to the manifest: a path, or a JSON object with ``input``, ``output`` (a name within
the output folder, as are ``alpha_output`` and the like) and other keywords of ``fusematte.run`` for
this file alone.  Empty lines and those that begin with ``#`` do not count.

``OUTPUT_DIR/report.json`` tells after each file what became of it.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fusematte.engine.errors import FuseMatteError, InputError, OutputError, UsageError
from fusematte.engine.jobs.options import JobOptions, check_known
from fusematte.engine.jobs.ray_cluster import Cluster
from fusematte.engine.jobs.run import BOTH, run_job
from fusematte.engine.jobs.single import Progress
from fusematte.engine.jobs.workers import Processes, Workers
from fusematte.engine.media.files import write_whole

log = logging.getLogger(__name__)

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".ts", ".mts", ".m2ts", ".mpg",
    ".mpeg", ".wmv", ".ogv", ".3gp", ".mxf",
)  # fmt: skip
"""What is taken for a video in a folder."""
REPORT = "report.json"
AT_ONCE = 4
"""Files that a cluster works on at the same time; each brings many tasks."""


@dataclass(frozen=True)
class Item:
    """One file to do, the options for it alone, and the folder of its report."""

    input: Path
    output: Path
    options: dict[str, Any] = field(default_factory=dict)
    report: Path | None = None


@dataclass(frozen=True)
class BatchResult:
    """What became of a file.

    status: "done", "failed", or "kept" if an earlier batch had done it.
    code: the exit code of its error, 0 without one.
    """

    input: str
    output: str
    status: str
    code: int = 0
    error: str = ""
    frames: int = 0
    seconds: float = 0.0


def find_items(source: Path, folder: Path, extension: str = ".mp4") -> list[Item]:
    """What a batch has to do; outputs have the inputs' names, with another extension.

    Raises:
        InputError: the source is missing, cannot be read, or has no video.
        UsageError: a line of the manifest cannot be, or two files would have the same output.
    """
    if not source.exists():
        raise InputError(f"{source}: no such folder or manifest; check the path")
    finder = _in_folder if source.is_dir() else _in_manifest
    items = list(finder(source, folder, extension))
    if not items:
        raise InputError(f"{source}: there is no video in it")
    twice = [path for path, count in Counter(item.output for item in items).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]}: two of the inputs would be written there; rename one")
    return items


def _in_folder(source: Path, folder: Path, extension: str) -> Iterator[Item]:
    """The videos below a folder, but for those that a batch has put into a folder within."""
    results = folder.resolve() if folder.resolve() != source.resolve() else None
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if results not in path.resolve().parents:
            yield Item(path, folder / path.relative_to(source).with_suffix(extension))


def _in_manifest(source: Path, folder: Path, extension: str) -> Iterator[Item]:
    try:
        lines = source.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: is no manifest, a text file of paths: {error}") from error
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        options = _parse(f"{source}, line {number}", line)
        for other in [key for key in options if key.endswith("_output")]:
            options[other] = folder / options[other]
        input = source.parent / options.pop("input")
        name = options.pop("output", input.with_suffix(extension).name)
        yield Item(input, folder / name, options)


def _parse(where: str, line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {"input": line}
    try:
        options = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: is neither a path nor a JSON object: {error}") from error
    if not isinstance(options.get("input"), str):
        raise UsageError(f"{where}: has no input; write a path, or JSON with an 'input'")
    check_known(options, where, "input", "output")
    return dict(options)


def run_batch(
    items: Sequence[Item],
    folder: Path,
    options: JobOptions,
    *,
    resume: bool = False,
    jobs: int = 1,
    cluster: str | None = None,
    report: Path | None = None,
    tell: Callable[[BatchResult], None],
    progress: Progress | None = None,
) -> list[BatchResult]:
    """Does all items, whatever becomes of the others; calls ``tell`` after each.

    Args:
        folder: where ``report.json`` goes.
        options: for all items.
        resume: what an earlier batch has done is kept, what it had begun is gone on with.
        jobs, cluster: as for ``fusematte.run``; files are done side by side as well.
        report: where the pages of all files go, in folders as those of the outputs.
        progress: as for ``fusematte.run``.

    Raises:
        OutputError: the folder cannot be written.
        UsageError: both jobs and a cluster, or too many jobs.
        BackendError: there is no such cluster.
    """
    _make(folder)
    if report is not None:
        items = [_with_page(item, folder, report) for item in items]
    kept = _kept(folder, items) if resume else {}
    results: list[BatchResult] = []

    def note(result: BatchResult) -> None:
        results.append(result)
        _write_report(folder, results)
        tell(result)

    for item in items:
        if str(item.input) in kept:
            note(kept[str(item.input)])
    missing = [item for item in items if str(item.input) not in kept]
    do = partial(_do, options=options, resume=resume, progress=progress)
    if cluster is not None and jobs != 1:
        raise UsageError(BOTH)
    if cluster is None and jobs == 1:
        for item in missing:
            note(do(item))
        return results
    with Cluster(cluster) if cluster is not None else Processes(jobs) as workers:
        at_once = AT_ONCE if cluster is not None else jobs
        for result in _side_by_side(missing, partial(do, workers=workers), at_once):
            note(result)
    return results


def _with_page(item: Item, folder: Path, report: Path) -> Item:
    """The item, told where its page goes: files of one name in two folders have one each."""
    own = item.output.parent
    place = report / own.relative_to(folder) if own.is_relative_to(folder) else report
    return replace(item, report=place)


def _side_by_side(
    items: Sequence[Item], do: Callable[[Item], BatchResult], at_once: int
) -> Iterator[BatchResult]:
    pool = ThreadPoolExecutor(at_once)
    try:
        for future in as_completed([pool.submit(do, item) for item in items]):
            yield future.result()
    finally:  # an interrupt does not wait for the files: their workers end first
        pool.shutdown(wait=False, cancel_futures=True)


def _do(
    item: Item,
    options: JobOptions,
    *,
    resume: bool,
    progress: Progress | None,
    workers: Workers | None = None,
) -> BatchResult:
    begun = time.perf_counter()
    names = str(item.input), str(item.output)
    try:
        _make(item.output.parent)
        done = run_job(
            item.input,
            item.output,
            options.with_text(item.options),
            resume=resume,
            workers=workers,
            report=item.report,
            progress=progress,
        )
    except FuseMatteError as error:
        return _failed(names, begun, error.exit_code, str(error))
    except Exception as error:  # whatever it is, the other files are still wanted
        log.debug("%s", item.input, exc_info=error)
        said = (str(error).splitlines() or [""])[0]
        return _failed(names, begun, 1, f"{item.input}: {type(error).__name__}: {said}")
    return BatchResult(*names, "done", frames=done.frames, seconds=round(done.seconds, 3))


def _failed(names: tuple[str, str], begun: float, code: int, text: str) -> BatchResult:
    seconds = round(time.perf_counter() - begun, 3)
    return BatchResult(*names, "failed", code, text, seconds=seconds)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def _kept(folder: Path, items: Sequence[Item]) -> dict[str, BatchResult]:
    """What an earlier batch has done, and is still there."""
    try:
        rows = json.loads((folder / REPORT).read_text("utf-8"))["files"]
        before = {row["input"]: BatchResult(**row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    kept = {}
    for item in items:
        result = before.get(str(item.input))
        if result is None or result.code or result.output != str(item.output):
            continue
        if item.output.exists():
            kept[result.input] = replace(result, status="kept")
    return kept


def _write_report(folder: Path, results: Sequence[BatchResult]) -> None:
    path = folder / REPORT
    states = Counter(result.status for result in results)
    report = {"summary": dict(states), "files": [asdict(result) for result in results]}
    write_whole(path, (json.dumps(report, indent=2) + "\n").encode())


def table(results: Sequence[BatchResult]) -> list[str]:
    """A summary for people: a line for each file, and one for all."""
    width = max((len(Path(result.input).name) for result in results), default=4)
    lines = [f"{'file':<{width}}  {'result':<7} {'frames':>7} {'seconds':>8} {'fps':>6}"]
    for result in results:
        rate = f"{result.frames / result.seconds:.1f}" if result.frames and result.seconds else ""
        name = Path(result.input).name
        numbers = f"{result.frames or '':>7} {result.seconds:>8.1f} {rate:>6}"
        line = f"{name:<{width}}  {result.status:<7} {numbers}  {result.error}"
        lines.append(line.rstrip())
    states = Counter(result.status for result in results)
    lines.append(", ".join(f"{count} {status}" for status, count in sorted(states.items())))
    return lines
