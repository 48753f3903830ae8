"""All exceptions that FuseMatte raises on purpose, and their exit codes on the command line.

::

    FuseMatteError                 1
    ├── UsageError                 2   an option or argument is invalid (argparse errors as well)
    ├── InputError                 3   the input is missing, is not a video, or cannot be read
    │   └── TruncatedInputError    4   the input ends early; the frames before are in the .part file
    ├── OutputError                5   the output cannot be written
    ├── BackgroundError            6   the background is unknown or cannot be read
    ├── ModelError                 7   the model bundle is missing, damaged or not supported
    ├── BackendError               8   the requested backend cannot run on this machine
    └── ExportError                9   an export failed, or failed its own check; nothing is kept

Ctrl-C exits with 130 and leaves a playable ``.part`` file.  A message is one line: where, what is
wrong, what to do.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import Self

INTERRUPTED = 130
"""Exit code after Ctrl-C, SIGTERM and SIGHUP."""
FAULT = 70
"""Exit code after any other exception: a bug, or too little memory."""


class FuseMatteError(Exception):
    """Base class of them all.  ``str()`` gives the one-line message, remedy included.

    path: the file, folder or URL at fault, as it was given; None if there is none.
    option: the option at fault, by its name in Python (``light_wrap``); None if there is none.
    remedy: what to do, the last clause of the message; None if nothing can be suggested.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        path: str | PathLike[str] | None = None,
        option: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message if remedy is None else f"{message}; {remedy}")
        self.path = None if path is None else fspath(path)
        self.option, self.remedy = option, remedy

    @classmethod
    def at(
        cls,
        path: str | PathLike[str],
        message: str,
        *,
        option: str | None = None,
        remedy: str | None = None,
    ) -> Self:
        """The error whose message begins with the path at fault."""
        return cls(f"{fspath(path)}: {message}", path=path, option=option, remedy=remedy)

    def fields(self) -> dict[str, str | int | None]:
        """The error for programs, as JSON can hold it; ``--json`` prints these."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "message": str(self),
            "path": self.path,
            "option": self.option,
            "remedy": self.remedy,
        }


class UsageError(FuseMatteError, ValueError):
    """An option or argument is invalid."""

    exit_code = 2


class InputError(FuseMatteError):
    """The input is missing, is not a video, or cannot be read."""

    exit_code = 3


class TruncatedInputError(InputError):
    """The input ends before its container says it does; every frame before that was processed."""

    exit_code = 4


class OutputError(FuseMatteError):
    """The output cannot be written."""

    exit_code = 5


class OutputBusyError(OutputError):
    """Another job is writing the output."""


class BackgroundError(FuseMatteError):
    """The background is unknown or cannot be read."""

    exit_code = 6


class ModelError(FuseMatteError):
    """The model bundle is missing, damaged or not supported."""

    exit_code = 7


class BackendError(FuseMatteError):
    """The requested backend cannot run on this machine."""

    exit_code = 8


class ExportError(FuseMatteError):
    """An export failed, or failed its own check; nothing is kept."""

    exit_code = 9


def check_range(option: str, value: float, least: float, most: float, unit: str = "") -> None:
    """Raises UsageError unless ``value`` is from ``least`` to ``most``.

    unit: what the value counts, with a space before it.
    """
    if not least <= value <= most:
        bounds = f"{least:g} to {most:g}{unit}"
        raise UsageError(
            f"{option.replace('_', ' ')} must be {bounds}, not {value:g}", option=option
        )


def reason_of(error: BaseException) -> str:
    """What the system or libav says of an error, without path and number."""
    return str(getattr(error, "strerror", None) or error)


def first_line(error: BaseException | None) -> str:
    """The first line of an exception's message that says something, or its type if there is none;
    OpenVINO begins with the places in its own source."""
    lines = (line.strip() for line in str(error).splitlines())
    said = (line for line in lines if line and not line.startswith("Exception from "))
    return next(said, type(error).__name__)
