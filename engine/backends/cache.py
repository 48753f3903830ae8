"""A cache on disk for compiled networks and measurements; an entry is complete and made on this
machine, or it is not used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fusematte.engine.errors import reason_of

log = logging.getLogger(__name__)

MAGIC = b"FUSEMATTE-CACHE-1\n"
MOST_BYTES = 1 << 30
"""Limit for all entries of one kind; the least recently used ones are deleted beyond it."""

_reported: set[Path] = set()
"""Folders for which the warning that they cannot be written was logged."""


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """Everything that an entry depends on; a change of any field makes it another entry."""

    kind: str

    @property
    def file_name(self) -> str:
        """The entry's file name, unique to this key."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.bin"


def default_folder() -> Path:
    """The cache folder of this system, or the one that FUSEMATTE_CACHE names."""
    if chosen := os.environ.get("FUSEMATTE_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "fusematte"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fusematte"


class Cache:
    """A folder of entries.  Damaged or foreign entries are logged and count as missing."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def load(self, key: CacheKey) -> bytes | None:
        """The entry for this key, or None."""
        path = self.folder / key.file_name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        header, _, content = data.removeprefix(MAGIC).partition(b"\n")
        if not data.startswith(MAGIC) or header != _header(key, content):
            log.warning("%s: damaged, or from another machine; it is made again", path)
            return None
        with contextlib.suppress(OSError):  # another user's, or on a read-only disk
            os.utime(path)  # marks it as recently used
        return content

    def store(self, key: CacheKey, content: bytes) -> bool:
        """Stores an entry atomically; returns whether that worked.

        If the folder cannot be written, one warning is logged, and the next start is slower.
        """
        partial = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self.folder, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + _header(key, content) + b"\n" + content)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).replace(self.folder / key.file_name)
        except OSError as error:
            if partial:
                Path(partial).unlink(missing_ok=True)
            if self.folder not in _reported:
                log.warning(
                    "%s: the cache cannot be written (%s), so every start is slower; set "
                    "FUSEMATTE_CACHE to a writable folder",
                    self.folder, reason_of(error),
                )  # fmt: skip
            _reported.add(self.folder)
            return False
        with contextlib.suppress(OSError):  # another process may delete them at the same time
            _drop_oldest(self.folder.glob(f"{key.kind}-*.bin"))
        return True


def _header(key: CacheKey, content: bytes) -> bytes:
    return json.dumps(asdict(key) | {"sha256": hashlib.sha256(content).hexdigest()}).encode()


def _drop_oldest(paths: Iterable[Path]) -> None:
    """Deletes the least recently used files beyond ``MOST_BYTES``."""
    total = 0
    entries = [(path.stat(), path) for path in paths]
    for found, path in sorted(entries, key=lambda entry: entry[0].st_mtime, reverse=True):
        total += found.st_size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
