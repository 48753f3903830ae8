"""``fusematte serve``: a local web page for the camera and for video files, and an HTTP API."""

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
        help="port to listen on; 0 takes a free one (%(default)s)",
    )
    parser.add_argument(
        "--budget-ms", type=float, metavar="MS",
        help="latency budget, held as by live (one frame at 30 fps)",
    )  # fmt: skip
    parser.add_argument(
        "--api", action="store_true",
        help="also serve the HTTP API below /api; FUSEMATTE_API_KEY sets the key clients must send",
    )  # fmt: skip
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on; another one than this machine's opens the API, not the page, "
        "to others and needs a key (%(default)s)",
    )  # fmt: skip
    add_model_options(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command until it is interrupted; returns its exit code."""
    try:
        from fusematte.engine.serve.server import BUDGET_MS, serve
    except ImportError as error:
        raise UsageError(
            f"serve needs {error.name}, which is not installed",
            remedy="pip install 'fusematte[serve]'",
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
