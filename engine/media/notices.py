"""Logs the warnings about a file only once, even if a job opens it several times."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_known: ContextVar[bool] = ContextVar("known", default=False)


@contextmanager
def known() -> Iterator[None]:
    """Suppresses warnings about files that were opened, and warned about, before."""
    token = _known.set(True)
    try:
        yield
    finally:
        _known.reset(token)


class OnlyNews(logging.Filter):
    """The filter on the loggers of readers and writers."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return not _known.get()
