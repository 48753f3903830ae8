"""Locks that keep two jobs from writing the same output; they end with the process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from fusematte.engine.errors import OutputBusyError, OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def lock_file(path: Path) -> int:
    """Opens and locks a file for writing, creates it if necessary; returns its descriptor.

    The file is truncated after it was locked.

    Raises:
        OutputBusyError: another job writes it.
        OutputError: it is a symbolic link.
        OSError: it cannot be created.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = _lock(path, flags)
    os.ftruncate(descriptor, 0)
    return descriptor


class FolderLock:
    """Locks a folder for one job, until ``close``.

    Raises:
        OutputBusyError: another job uses it.
        OutputError: it is a symbolic link.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        if fcntl is not None:
            self._descriptor = _lock(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Unlocks the folder; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def sync_folder(path: Path) -> None:
    """Flushes the names in a folder to disk, against power cuts, where the system supports it."""
    if fcntl is None:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flushes a file's content to disk, against power cuts."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _lock(path: Path, flags: int) -> int:
    if path.is_symlink():
        raise OutputError.at(path, "is a symbolic link, which is not followed", remedy="remove it")
    while True:
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _take(descriptor, path)
            if _is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another job renamed it between opening and locking


def _take(descriptor: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputBusyError.at(
            path, "another job is writing this", remedy="wait for it or choose another name"
        ) from error
    except OSError:  # a file system without locks
        return


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
