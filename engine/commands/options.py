"""Options that several commands share."""

from __future__ import annotations

import argparse

from fusematte.engine.backends import BACKENDS
from fusematte.engine.models import DEFAULT_MODEL


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--backend`` and ``--threads``."""
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="a shipped model or a bundle folder (%(default)s)"
    )
    add_backend_options(parser)


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """``--backend`` and ``--threads``."""
    parser.add_argument("--backend", default="auto", help=f"auto, {', '.join(BACKENDS)} (auto)")
    parser.add_argument(
        "--threads", type=int, metavar="N",
        help="CPU threads for the network (half of the processors; for stills all)",
    )  # fmt: skip


def add_long_job_options(parser: argparse.ArgumentParser) -> None:
    """``--resume``, ``--cluster`` and ``--report``."""
    parser.add_argument(
        "--resume", action="store_true", help="go on where this job was interrupted"
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="let a Ray cluster do the work: auto, HOST:PORT or ray://HOST:PORT",
    )
    parser.add_argument(
        "--report", metavar="DIR", help="also write a page there of the frames to check by eye"
    )
