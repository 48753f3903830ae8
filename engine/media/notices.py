"""Warnings of a file, which are told once however often the file is opened."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_known: ContextVar[bool] = ContextVar("known", default=False)


@contextmanager
def known() -> Iterator[None]:
    """What is opened within has been opened before: its warnings are known and not repeated."""
    token = _known.set(True)
    try:
        yield
    finally:
        _known.reset(token)


class OnlyNews(logging.Filter):
    """For the loggers of readers and writers."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return not _known.get()
