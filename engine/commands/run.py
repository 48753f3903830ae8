"""``fusematte run``: replaces the background of a video."""

from __future__ import annotations

import argparse
import os
import sys
import time

from fusematte.engine.commands.options import (
    add_job_options,
    add_json_option,
    add_long_job_options,
    add_precision,
    backend_of,
    talking,
)
from fusematte.engine.errors import FuseMatteError, OutputBusyError, UsageError
from fusematte.engine.jobs.options import OUTPUTS, JobOptions
from fusematte.engine.jobs.run import run_job
from fusematte.engine.jobs.segmented import segments_of
from fusematte.engine.media.files import is_folder
from fusematte.engine.media.outputs import parts_of
from fusematte.engine.media.writer import is_stdout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "input",
        metavar="IN",
        help="a video file, a URL, a folder of pictures or a pattern (shot_%%04d.png); standard "
        "input: -, or pipe:WxH:FORMAT:RATE for raw video",
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        help="a video file (.mp4, .mkv, ...) or a pattern of pictures (out_%%05d.png, .exr); "
        "standard output: -, or pipe:ts",
    )
    add_job_options(parser)
    add_precision(parser)
    add_long_job_options(parser)
    add_json_option(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    # The result itself may go to standard output.
    talk = sys.stderr if is_stdout(options.output) else sys.stdout
    begun = time.time()
    try:
        with talking(options, talk) as (lines, progress):
            job = JobOptions.of(vars(options) | {"backend": backend_of(options)})
            done = run_job(
                options.input,
                options.output,
                job,
                resume=options.resume,
                jobs=options.jobs,
                workers=options.cluster,
                report=options.report,
                progress=progress,
            )
    except (FuseMatteError, KeyboardInterrupt) as error:
        if not isinstance(error, UsageError | OutputBusyError):  # nothing there is this job's
            further = (getattr(options, name) for name in OUTPUTS)
            _say_what_is_left(begun, options.output, *further)
        raise
    if lines is not None:
        seconds, fps = round(done.seconds, 2), round(done.rate, 2)
        lines.tell("done", output=options.output, frames=done.frames, seconds=seconds, fps=fps)
    elif not options.quiet:
        print(f"{options.output}: {done}", file=talk)
    return 0


def _say_what_is_left(begun: float, *outputs: str | None) -> None:
    """Names the partial files of a failed job; older files are not mentioned."""
    for part in (part for output in outputs if output for part in parts_of(output)):
        if os.path.lexists(part) and part.lstat().st_mtime >= begun - 1:
            print(f"fusematte: {part} has the frames done so far", file=sys.stderr)
    folder = segments_of(outputs[0] or "")
    if is_folder(folder) and any(file.stat().st_mtime >= begun - 1 for file in folder.iterdir()):
        print(f"fusematte: {folder} has the segments done; go on with --resume", file=sys.stderr)
