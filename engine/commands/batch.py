"""``fusematte batch``: replaces the backgrounds of many videos; one that fails stops no other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fusematte.engine.commands.options import (
    add_job_options,
    add_json_option,
    add_long_job_options,
    add_precision,
    backend_of,
    talking,
)
from fusematte.engine.errors import UsageError
from fusematte.engine.jobs.batch import (
    BatchResult,
    Item,
    find_in_folder,
    find_items,
    run_batch,
    table,
)
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.progress import JsonProgress, ProgressReport
from fusematte.engine.jobs.watch import Watch

OWN = ("start", "end", "frame_rate", "alpha_output", "foreground_output", "rgba_output")
"""Options for single files: available in a manifest, not on the command line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="FOLDER|MANIFEST",
        help="a folder of videos, or a text file with a path or a JSON object per line",
    )
    parser.add_argument(
        "--output-dir",
        "-o",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the outputs and of report.json",
    )
    parser.add_argument(
        "--extension", default=".mp4", metavar=".EXT", help="container of the outputs (%(default)s)"
    )
    parser.add_argument(
        "--watch", action="store_true",
        help="go on with every video that comes into FOLDER, until it is interrupted; what is done "
        "already is kept",
    )  # fmt: skip
    add_job_options(parser, *(name for name in JobOptions.names() if name not in OWN))
    add_precision(parser)
    add_long_job_options(parser)
    add_json_option(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code of the first file that failed, else 0."""
    if options.watch:
        return _watch(options)
    with talking(options) as (lines, progress):
        items = find_items(options.source, options.output_dir, options.extension)
        if isinstance(progress, ProgressReport):
            progress.files = len(items)
        results = _run(options, items, lines, progress)
    if not options.quiet and lines is None:
        print("\n".join(["", *table(results)]))
    return next((result.code for result in results if result.code), 0)


def _watch(options: argparse.Namespace) -> int:
    """Processes what comes into the folder until the command is interrupted."""
    source, folder = options.source, options.output_dir
    with talking(options) as (lines, progress):
        if not source.is_dir():
            raise UsageError(f"--watch needs a folder, and {source} is none", option="watch")
        watch = Watch(lambda: find_in_folder(source, folder, options.extension))
        results: dict[str, BatchResult] = {}
        if not options.quiet and lines is None:
            print(f"watching {source}; Ctrl-C ends it", flush=True)
        options.resume = True  # first, what an earlier watch has finished is kept
        for items in watch:
            new = {str(item.input) for item in items}
            earlier = [result for name, result in results.items() if name not in new]
            results |= {one.input: one for one in _run(options, items, lines, progress, earlier)}
            options.resume = False
    return 0


def _run(
    options: argparse.Namespace,
    items: list[Item],
    lines: JsonProgress | None,
    progress: JsonProgress | ProgressReport | None,
    earlier: Sequence[BatchResult] = (),
) -> list[BatchResult]:
    def tell(result: BatchResult) -> None:
        if isinstance(progress, ProgressReport):
            progress.finish(result.input)
            progress.clear()
        if lines is not None:
            lines.tell("error" if result.error else "done", **asdict(result))
        elif result.error:
            print(f"fusematte: {result.error}", file=sys.stderr)
        elif not options.quiet:
            print(f"{result.output}: {result.frames} frames in {result.seconds:.1f} s")

    return run_batch(
        items,
        options.output_dir,
        JobOptions.of(vars(options) | {"backend": backend_of(options)}),
        resume=options.resume,
        jobs=options.jobs,
        cluster=options.cluster,
        report=None if options.report is None else Path(options.report),
        tell=tell,
        progress=progress,
        earlier=earlier,
    )
