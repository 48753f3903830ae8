"""``fusematte serve``: a page on this machine, for the camera and for video files."""

from __future__ import annotations

import argparse

from fusematte.engine.commands.options import add_model_options, backend_of
from fusematte.engine.errors import UsageError

DEFAULT_PORT = 8765


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="of 127.0.0.1; 0 takes a free one (%(default)s)",
    )
    parser.add_argument(
        "--budget-ms", type=float, metavar="MS",
        help="latency to hold by a smaller network when the machine is busy (one frame of 30 a "
        "second)",
    )  # fmt: skip
    parser.add_argument(
        "--api", action="store_true",
        help="also answer programs, below /api; the key they must send is read from "
        "FUSEMATTE_API_KEY",
    )  # fmt: skip
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="let other machines use the API: its address here, or 0.0.0.0; needs a key "
        "(%(default)s)",
    )  # fmt: skip
    add_model_options(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command until it is interrupted; returns its exit code."""
    try:
        from fusematte.engine.serve.server import BUDGET_MS, serve
    except ImportError as error:
        raise UsageError(
            f"serve needs {error.name}, which is not installed: pip install 'fusematte[serve]'"
        ) from error
    serve(
        options.port,
        budget_ms=BUDGET_MS if options.budget_ms is None else options.budget_ms,
        api=options.api,
        host=options.host,
        model=options.model,
        backend=backend_of(options),
        threads=options.threads,
    )
    return 0
