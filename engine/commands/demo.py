"""``fusematte demo``: a complete job on a generated clip."""

from __future__ import annotations

import argparse
from pathlib import Path

from fusematte.engine.commands.options import add_json_option, talking
from fusematte.engine.diagnostics.demo import run_demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--output-dir", "-o", type=Path, default=Path("demo"), metavar="DIR")
    add_json_option(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    with talking(options) as (lines, progress):
        demo = run_demo(options.output_dir, progress)
    paths = {name: str(getattr(demo, name)) for name in ("clip", "composite", "alpha", "sheet")}
    if lines is not None:
        lines.tell("done", frames=demo.report.frames, fps=round(demo.report.rate, 2), **paths)
        return 0
    print(demo.report)
    for name, path in paths.items():
        print(f"{name + ':':<11}{path}")
    return 0
