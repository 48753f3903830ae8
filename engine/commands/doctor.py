"""``fusematte doctor``: checks which parts of FuseMatte work on this machine."""

from __future__ import annotations

import argparse

from fusematte.engine.diagnostics.doctor import report
from fusematte.engine.errors import BackendError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments of its own."""


def main(options: argparse.Namespace) -> int:  # noqa: ARG001
    """Runs the command; returns its exit code."""
    lines, usable = report()
    print("\n".join(lines))
    return 0 if usable else BackendError.exit_code
