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
        "--threads", type=int, metavar="N", help="CPU threads for the network (the backend chooses)"
    )
