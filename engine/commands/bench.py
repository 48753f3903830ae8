"""``fusematte bench``: measures the speed of this machine."""

from __future__ import annotations

import argparse

from fusematte.engine.commands.options import (
    add_json_option,
    add_model_options,
    backend_of,
    parse_size,
    talking,
)
from fusematte.engine.diagnostics.bench import bench, described
from fusematte.engine.errors import UsageError

SIZES = ["1280x720", "1920x1080"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--sizes", nargs="+", default=SIZES, metavar="WxH", help=f"video sizes ({' '.join(SIZES)})"
    )
    parser.add_argument(
        "--frames", type=int, default=120, metavar="N", help="per size (%(default)s)"
    )
    add_model_options(parser)
    add_json_option(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    with talking(options) as (lines, progress):
        if options.frames < 3:
            raise UsageError("--frames must be at least 3", option="frames")
        result = bench(
            [parse_size(text, least=16, multiple=2) for text in options.sizes],
            model=options.model,
            backend=backend_of(options),
            threads=options.threads,
            frames=options.frames,
            progress=progress,
        )
    if lines is not None:
        lines.tell("done", **result)
    else:
        print("\n".join(described(result)))
    return 0
