"""``fusematte tune``: measures every backend on this machine and remembers the fastest."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from fusematte.engine.backends import Spec
from fusematte.engine.commands.options import (
    add_json_option,
    add_model_options,
    backend_of,
    talking,
)
from fusematte.engine.diagnostics.tune import HEADER, Row, tune
from fusematte.engine.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_model_options(parser)
    add_json_option(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    with talking(options) as (lines, _):

        def tell(row: Row, total: int) -> None:
            if lines is not None:
                lines.tell("progress", total=total, **asdict(row) | {"spec": str(row.spec)})
            elif not options.quiet:
                print(row, flush=True)

        if options.threads is not None:
            raise UsageError(
                "tune tries every number of threads", option="threads", remedy="leave out --threads"
            )
        wish = Spec.parse(backend_of(options))
        if lines is None and not options.quiet:
            print(HEADER, flush=True)
        found = tune(options.model, wish, tell)
    best = {str(work): tuning.timings[0] for work, tuning in found.items()}
    if lines is not None:
        lines.tell("done", **{work: asdict(timing) for work, timing in best.items()})
        return 0
    for work, timing in best.items():
        print(f"{work + ':':8} {timing}")
    return 0
