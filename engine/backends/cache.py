"""What was compiled or measured on this machine, kept on disk: whole and for this machine, or not
at all."""

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

log = logging.getLogger(__name__)

MAGIC = b"FUSEMATTE-CACHE-1\n"
MOST_BYTES = 1 << 30
"""Of entries of one kind; beyond that, those not used for longest go."""

_told: set[Path] = set()
"""Folders of which it was said that they cannot be written."""


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """Everything that an entry depends on; with any other value it is another entry's key."""

    kind: str

    @property
    def file_name(self) -> str:
        """A name that no other key has."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.bin"


def default_folder() -> Path:
    """Where caches go on this system; FUSEMATTE_CACHE names another place."""
    if chosen := os.environ.get("FUSEMATTE_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "fusematte"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fusematte"


class Cache:
    """A folder of entries.  What is damaged or foreign is told of and made anew."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def load(self, key: CacheKey) -> bytes | None:
        """The entry of this key, or None."""
        path = self.folder / key.file_name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        header, _, content = data.removeprefix(MAGIC).partition(b"\n")
        if not data.startswith(MAGIC) or header != _header(key, content):
            log.warning("%s: damaged or made elsewhere; it is made anew", path)
            return None
        with contextlib.suppress(OSError):  # somebody else's, or on a read-only disk
            os.utime(path)  # used now
        return content

    def store(self, key: CacheKey, content: bytes) -> bool:
        """Keeps an entry, whole or not at all; returns whether it was kept.

        A folder that cannot be written is told of once, and costs the next start.
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
            if self.folder not in _told:
                log.warning(
                    "%s: what was compiled and measured cannot be kept (%s), so that every start "
                    "is slower; set FUSEMATTE_CACHE to a folder that can be written",
                    self.folder, error.strerror,
                )  # fmt: skip
            _told.add(self.folder)
            return False
        with contextlib.suppress(OSError):  # another process drops them as well
            _drop_oldest(self.folder.glob(f"{key.kind}-*.bin"))
        return True


def _header(key: CacheKey, content: bytes) -> bytes:
    return json.dumps(asdict(key) | {"sha256": hashlib.sha256(content).hexdigest()}).encode()


def _drop_oldest(paths: Iterable[Path]) -> None:
    """Keeps the newest files, up to ``MOST_BYTES``."""
    total = 0
    entries = [(path.stat(), path) for path in paths]
    for found, path in sorted(entries, key=lambda entry: entry[0].st_mtime, reverse=True):
        total += found.st_size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
