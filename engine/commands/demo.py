"""``fusematte demo``: a complete job on a generated clip."""

from __future__ import annotations

import argparse
from pathlib import Path

from fusematte.engine.diagnostics.demo import run_demo
from fusematte.engine.jobs.progress import ProgressReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--output-dir", "-o", type=Path, default=Path("demo"), metavar="DIR")


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    progress = None if options.quiet else ProgressReport()
    demo = run_demo(options.output_dir, progress)
    if progress is not None:
        progress.clear()
    print(demo.report)
    for name in ("clip", "composite", "alpha", "sheet"):
        print(f"{name + ':':<11}{getattr(demo, name)}")
    return 0
