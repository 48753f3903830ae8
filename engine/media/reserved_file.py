"""An output file on disk with reserved space for its end.

Most containers are useless without the index at their end, and a muxer drops everything after a
failed write.  So some disk space is reserved at the start.  When the disk is full, it is released,
the write is repeated, and ``error`` says that the file must be finished now.
"""

from __future__ import annotations

import errno
import os
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from fusematte.engine.media.locks import lock_file, sync_folder

ROOM = 8 << 20
"""Bytes reserved for the data that the muxer still holds and for its index ..."""
ROOM_PER_FRAME = 64
"""... which grows with the file."""


class OutFile:
    """A file that is created when the first byte is written.

    frames: expected number of frames.
    error: the system's error once the disk was full; None before.

    Raises:
        OSError: while writing: the file cannot be created, or the disk is completely full.
        OutputError: while writing: another job writes it, or it is a symbolic link.
    """

    def __init__(self, path: Path, frames: int = 0) -> None:
        self._path, self._size = path, ROOM + ROOM_PER_FRAME * frames
        self._file: FileIO | None = None
        self._room: IO[bytes] | None = None
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Writes all of the data."""
        file = self._file or self._open()
        left = memoryview(data)
        while left:
            try:
                left = left[file.write(left) :]
            except OSError as error:
                if self._room is None:
                    raise
                self.error = error
                self._give_up_room()
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Sets the position in the file."""
        return (self._file or self._open()).seek(offset, whence)

    def tell(self) -> int:
        """The position in the file."""
        return 0 if self._file is None else self._file.tell()

    def finish(self, name: Path) -> None:
        """Flushes the complete file to disk and gives it its name."""
        self._give_up_room()
        if self._file is not None:
            os.fsync(self._file.fileno())
        if os.name == "nt":  # there an open file keeps its name
            self.close()
        self._path.replace(name)
        sync_folder(name.parent)
        self.close()

    def discard(self) -> None:
        """Deletes the file, unless another job writes it."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Closes and unlocks the file; may be called twice."""
        self._give_up_room()
        if self._file is not None:
            self._file.close()

    def _open(self) -> FileIO:
        self._file = FileIO(lock_file(self._path), "w")
        if hasattr(os, "posix_fallocate"):
            self._take_room()
        return self._file

    def _take_room(self) -> None:
        # It has no name, so that nothing remains if the process dies.
        self._room = TemporaryFile(dir=self._path.parent)  # noqa: SIM115
        try:
            os.posix_fallocate(self._room.fileno(), 0, self._size)
        except OSError as error:
            self._give_up_room()
            if error.errno == errno.ENOSPC:
                raise  # otherwise the file system does not support it

    def _give_up_room(self) -> None:
        if self._room is not None:
            self._room.close()
        self._room = None
