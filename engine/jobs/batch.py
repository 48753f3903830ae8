"""``fusematte batch``: many files, one after the other or in parallel on a cluster.

A folder is searched for videos recursively.  A manifest is a text file with one input per line,
relative to the manifest: a path, or a JSON object with ``input``, ``output`` (a name within the
output folder, like ``alpha_output`` and the others) and further keywords of ``fusematte.run`` for
this file.  Empty lines and lines that begin with ``#`` are ignored.

``OUTPUT_DIR/report.json`` is updated with the result of each file.
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

from fusematte.engine.errors import FuseMatteError, InputError, UsageError, first_line
from fusematte.engine.jobs.options import JobOptions, check_known
from fusematte.engine.jobs.ray_cluster import Cluster
from fusematte.engine.jobs.run import BOTH, run_job
from fusematte.engine.jobs.single import Progress
from fusematte.engine.jobs.workers import Processes, Workers
from fusematte.engine.media.files import make_folder, write_whole

log = logging.getLogger(__name__)

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".ts", ".mts", ".m2ts", ".mpg",
    ".mpeg", ".wmv", ".ogv", ".3gp", ".mxf",
)  # fmt: skip
"""Suffixes of the files in a folder that count as videos."""
REPORT = "report.json"
AT_ONCE = 4
"""Files in progress at the same time on a cluster; each consists of many tasks."""


@dataclass(frozen=True)
class Item:
    """One file of a batch, its own options, and the folder of its review page."""

    input: Path
    output: Path
    options: dict[str, Any] = field(default_factory=dict)
    report: Path | None = None


@dataclass(frozen=True)
class BatchResult:
    """The result of one file.

    status: "done", "failed", or "kept" if an earlier batch had finished it.
    code, error: exit code and message of its error; 0 and empty without one.
    path, option, remedy: further fields of the error, see ``FuseMatteError``.
    """

    input: str
    output: str
    status: str
    code: int = 0
    error: str = ""
    frames: int = 0
    seconds: float = 0.0
    path: str | None = None
    option: str | None = None
    remedy: str | None = None


def find_items(source: Path, folder: Path, extension: str = ".mp4") -> list[Item]:
    """The items of a batch; outputs have the inputs' names with another extension.

    Raises:
        InputError: the source is missing, cannot be read, or contains no video.
        UsageError: a line of the manifest is invalid, or two files would have the same output.
    """
    if not source.exists():
        raise InputError.at(source, "no such folder or manifest", remedy="check the path")
    if source.is_dir():
        items = find_in_folder(source, folder, extension)
    else:
        items = list(_in_manifest(source, folder, extension))
    if not items:
        raise InputError.at(source, "contains no video")
    twice = [path for path, count in Counter(item.output for item in items).items() if count > 1]
    if twice:
        raise UsageError.at(twice[0], "two inputs would be written there", remedy="rename one")
    return items


def find_in_folder(source: Path, folder: Path, extension: str) -> list[Item]:
    """The videos below a folder, except those in the output folder; there may be none."""
    results = folder.resolve() if folder.resolve() != source.resolve() else None
    return [
        Item(path, folder / path.relative_to(source).with_suffix(extension))
        for path in sorted(source.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and results not in path.resolve().parents
    ]


def _in_manifest(source: Path, folder: Path, extension: str) -> Iterator[Item]:
    try:
        lines = source.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError.at(source, f"is not a manifest (a text file of paths): {error}") from error
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
        raise UsageError(f"{where}: has no input", remedy="write a path, or JSON with 'input'")
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
    earlier: Sequence[BatchResult] = (),
) -> list[BatchResult]:
    """Processes all items, even if some fail; calls ``tell`` after each.

    Args:
        folder: the folder of ``report.json``.
        options: options for all items.
        resume: keep the finished outputs of an earlier batch and continue its unfinished jobs.
        jobs, cluster: as for ``fusematte.run``; files are processed side by side as well.
        report: the folder of the review pages, with the same subfolders as the outputs.
        progress: as for ``fusematte.run``.
        earlier: results of other items, which ``report.json`` lists as well.

    Raises:
        OutputError: the folder cannot be written.
        UsageError: both jobs and a cluster are given, or too many jobs.
        BackendError: the cluster cannot be reached.
    """
    if cluster is not None and jobs != 1:
        raise UsageError(BOTH, option="jobs")
    make_folder(folder)
    if report is not None:
        items = [_with_page(item, folder, report) for item in items]
    kept = _kept(folder, items) if resume else {}
    results: list[BatchResult] = []

    def note(result: BatchResult) -> None:
        results.append(result)
        _write_report(folder, [*earlier, *results])
        tell(result)

    for item in items:
        if str(item.input) in kept:
            note(kept[str(item.input)])
    missing = [item for item in items if str(item.input) not in kept]
    do = partial(_do, options=options, resume=resume, progress=progress)
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
    """The item with the folder of its page: files of the same name in two folders get one each."""
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
        make_folder(item.output.parent)
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
        failure = error
    except Exception as error:  # the other files are still processed
        log.debug("%s", item.input, exc_info=error)
        text = f"{item.input}: {type(error).__name__}: {first_line(error)}"
        failure = FuseMatteError(text, path=item.input)
    else:
        return BatchResult(*names, "done", frames=done.frames, seconds=round(done.seconds, 3))
    return BatchResult(
        *names,
        "failed",
        failure.exit_code,
        str(failure),
        seconds=round(time.perf_counter() - begun, 3),
        path=failure.path,
        option=failure.option,
        remedy=failure.remedy,
    )


def _kept(folder: Path, items: Sequence[Item]) -> dict[str, BatchResult]:
    """The results of an earlier batch whose outputs still exist."""
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
    """A summary for the terminal: a line for each file and a total."""
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
