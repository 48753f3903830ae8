"""Every error FuseMatte raises on purpose, and the exit code each has on the command line.

::

    FuseMatteError                 1
    ├── UsageError                 2   an option or argument that cannot be (also argparse's own)
    ├── InputError                 3   the input is missing, is no video, or cannot be read
    │   └── TruncatedInputError    4   the input broke off; what was read is in the .part file
    ├── OutputError                5   the output cannot be written
    ├── BackgroundError            6   the background is unknown or cannot be read
    ├── ModelError                 7   the model bundle is missing, damaged or of another kind
    ├── BackendError               8   the backend asked for cannot run here
    └── ExportError                9   an export failed, or failed its own check; nothing is kept

An interrupt (Ctrl-C) exits with 130 and leaves a playable ``.part`` file.  Messages are one line:
what, where, what to do.
"""

from __future__ import annotations

INTERRUPTED = 130
"""Exit code after Ctrl-C, SIGTERM and SIGHUP."""
FAULT = 70
"""Exit code after an error that none of these classes stands for: a fault, or too little memory."""


class FuseMatteError(Exception):
    """Base of all of them."""

    exit_code = 1


class UsageError(FuseMatteError, ValueError):
    """An option or argument that cannot be."""

    exit_code = 2


class InputError(FuseMatteError):
    """The input is missing, is no video, or cannot be read."""

    exit_code = 3


class TruncatedInputError(InputError):
    """The input broke off before its end; everything before that was processed."""

    exit_code = 4


class OutputError(FuseMatteError):
    """The output cannot be written."""

    exit_code = 5


class BackgroundError(FuseMatteError):
    """The background is unknown or cannot be read."""

    exit_code = 6


class ModelError(FuseMatteError):
    """The model bundle is missing, damaged or of another kind."""

    exit_code = 7


class BackendError(FuseMatteError):
    """The backend asked for cannot run here."""

    exit_code = 8


class ExportError(FuseMatteError):
    """An export failed, or failed its own check; nothing is kept."""

    exit_code = 9
