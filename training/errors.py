"""Exceptions of training and evaluation; exit codes are those of ``fusematte.engine.errors``."""

from __future__ import annotations

from fusematte.engine.errors import FuseMatteError, InputError, ModelError


class DataError(InputError):
    """The data folder or a sample in it cannot be used; the message names it."""


class CheckpointError(ModelError):
    """A checkpoint or weights file is missing, damaged or of another configuration."""


class DivergedError(FuseMatteError):
    """The loss is not finite; the last good checkpoint is kept (exit code 1)."""
