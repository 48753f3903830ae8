"""``fusematte batch --watch``: the videos that come into a folder, each when it is complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fusematte.engine.jobs.batch import Item

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two looks at the folder."""


class Stamp(NamedTuple):
    """Size and time of a file, which tell that it has changed."""

    size: int
    changed: int


class Watch:
    """Tells which videos are new in a folder, or have been replaced.

    A video counts once it has been the same for two looks: it may still be being copied.  The
    folder is looked at, not listened to: that works over a network and in a container, too.
    """

    def __init__(self, find: Callable[[], Sequence[Item]]) -> None:
        self._find = find
        self._seen: dict[Path, Stamp] = {}
        self._done: dict[Path, Stamp] = {}
        self._owners: dict[Path, Path] = {}

    def look(self) -> list[Item]:
        """The items that are due now; each is returned once."""
        due, seen = [], {}
        for item in self._find():
            try:
                status = item.input.stat()
            except OSError:  # it has been removed since
                continue
            stamp = seen[item.input] = Stamp(status.st_size, status.st_mtime_ns)
            if self._done.get(item.input) != stamp and self._seen.get(item.input) == stamp:
                self._done[item.input] = stamp
                if self._owns(item):
                    due.append(item)
        self._seen = seen
        return due

    def _owns(self, item: Item) -> bool:
        """Whether no other video is written to the item's output."""
        owner = self._owners.setdefault(item.output, item.input)
        if owner != item.input:
            log.warning("%s: would be written where %s is; rename it", item.input, owner)
        return owner == item.input

    def __iter__(self) -> Iterator[list[Item]]:
        """Yields items as they become due, until it is interrupted."""
        while True:
            if due := self.look():
                yield due
            time.sleep(INTERVAL)
