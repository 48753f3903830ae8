"""Logs each warning about a job's files only once, even if several readers find it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

log = logging.getLogger(__name__)


class Notice(NamedTuple):
    """A warning: a template of ``logging``, and what fills it."""

    template: str
    values: tuple[str | int | float, ...]

    @classmethod
    def parse(cls, template: str, values: list[str | int | float]) -> Notice:
        """Reads a notice from JSON.

        Raises:
            TypeError, ValueError: it is none.
        """
        template % tuple(values)
        return cls(template, tuple(values))


_found: ContextVar[list[Notice] | None] = ContextVar("found", default=None)


@contextmanager
def collected() -> Iterator[list[Notice]]:
    """Collects the warnings of readers and writers instead of logging them."""
    found: list[Notice] = []
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)


class CollectedHere(logging.Filter):
    """The filter on the loggers of readers and writers: keeps back what is ``collected``."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = _found.get()
        if found is None:
            return True
        if record.levelno >= logging.WARNING:
            values = record.args if isinstance(record.args, tuple) else ()
            plain = (v if isinstance(v, (str, int, float)) else str(v) for v in values)
            found.append(Notice(record.msg, tuple(plain)))
        return False


class ToldOnce:
    """The warnings of one job.

    Those that differ in numbers only are one: each segment has its own first frame.
    """

    def __init__(self) -> None:
        self._told: set[tuple[str | int | float, ...]] = set()

    def tell(self, notices: Iterable[Notice]) -> None:
        """Logs those that are new."""
        for template, values in notices:
            key = (template, *(value for value in values if isinstance(value, str)))
            if key not in self._told:
                log.warning(template, *values)
            self._told.add(key)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Tells the warnings that are raised meanwhile, at the end."""
        with collected() as found:
            try:
                yield
            finally:
                self.tell(found)
