"""``fusematte tune``: measures every backend on this machine and remembers the fastest."""

from __future__ import annotations

import argparse

from fusematte.engine.backends import Spec
from fusematte.engine.commands.options import add_model_options, backend_of
from fusematte.engine.diagnostics.tune import tune
from fusematte.engine.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_model_options(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if options.threads is not None:
        raise UsageError("tune tries every number of threads; leave out --threads")
    wish = Spec.parse(backend_of(options))
    found = tune(options.model, wish, lambda row: None if options.quiet else print(row, flush=True))
    for work, tuning in found.items():
        print(f"{work + ':':8} {tuning.timings[0]}")
    return 0
