"""Locks on what a job writes, so that no two jobs write one thing; they go with the process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from fusematte.engine.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def lock_file(path: Path) -> int:
    """Opens a file to be written from its beginning, makes it if need be; returns its descriptor.

    What is there is cut to nothing once it is certain that nobody else writes it.

    Raises:
        OutputError: another job writes it, or it is a link: its target is none of ours.
        OSError: it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = _lock(path, flags)
    os.ftruncate(descriptor, 0)
    return descriptor


class FolderLock:
    """A folder that one job alone works in, until ``close``.

    Raises:
        OutputError: another job works there, or it is a link.
        OSError: it is no folder that can be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        if fcntl is not None:
            self._descriptor = _lock(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Lets others in; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def sync_folder(path: Path) -> None:
    """Makes the names in a folder last through a power cut, where the system can."""
    if fcntl is None:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Makes a file's content last through a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _lock(path: Path, flags: int) -> int:
    if path.is_symlink():
        raise OutputError(f"{path}: is a link, and what it points to is not ours; remove it")
    while True:
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _take(descriptor, path)
            if _is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was finished and renamed between the two steps


def _take(descriptor: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"{path}: another job is writing this; wait for it or choose another name"
        ) from error
    except OSError:  # a file system without locks
        return


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
