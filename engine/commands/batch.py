"""``fusematte batch``: replaces the backgrounds of many videos; one that fails stops no other."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from fusematte.engine.commands.options import (
    add_job_options,
    add_json_option,
    add_long_job_options,
    add_precision,
    backend_of,
)
from fusematte.engine.jobs.batch import BatchResult, find_items, run_batch, table
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.progress import JsonProgress, ProgressReport

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
    add_job_options(parser, *(name for name in JobOptions.names() if name not in OWN))
    add_precision(parser)
    add_long_job_options(parser)
    add_json_option(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code of the first file that failed, else 0."""
    items = find_items(options.source, options.output_dir, options.extension)
    lines = JsonProgress() if options.json else None
    silent = options.quiet or options.cluster or options.jobs != 1
    progress = lines or (None if silent else ProgressReport())

    def tell(result: BatchResult) -> None:
        if progress is not None:
            progress.clear()
        if lines is not None:
            lines.tell("error" if result.error else "done", **asdict(result))
        elif result.error:
            print(f"fusematte: {result.error}", file=sys.stderr)
        elif not options.quiet:
            print(f"{result.output}: {result.frames} frames in {result.seconds:.1f} s")

    results = run_batch(
        items,
        options.output_dir,
        JobOptions.of(vars(options) | {"backend": backend_of(options)}),
        resume=options.resume,
        jobs=options.jobs,
        cluster=options.cluster,
        report=None if options.report is None else Path(options.report),
        tell=tell,
        progress=progress,
    )
    if not options.quiet and lines is None:
        print("\n".join(["", *table(results)]))
    return next((result.code for result in results if result.code), 0)
