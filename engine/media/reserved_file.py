"""The file on disk that libav writes to, with room kept for its end.

Most containers are of no use without the index that is written last, and a muxer drops whatever
comes after a write that failed.  So some room on the disk is taken at the beginning; when the disk
is full it is given up, the write goes through, and ``error`` tells that it is time to finish.
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
"""Bytes kept for what the muxer still holds and for its index ..."""
ROOM_PER_FRAME = 64
"""... which grows with the file."""


class OutFile:
    """A file that is made with the first byte written to it.

    frames: about how many pictures it will hold.
    error: what the system said when the disk was full; None while there is room.

    Raises:
        OSError: while writing: the file cannot be made, or there is no room even so.
        OutputError: while writing: another job writes it, or it is a link.
    """

    def __init__(self, path: Path, frames: int = 0) -> None:
        self._path, self._size = path, ROOM + ROOM_PER_FRAME * frames
        self._file: FileIO | None = None
        self._room: IO[bytes] | None = None
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Writes all of it."""
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
        """Goes to another place of the file."""
        return (self._file or self._open()).seek(offset, whence)

    def tell(self) -> int:
        """The place in the file."""
        return 0 if self._file is None else self._file.tell()

    def finish(self, name: Path) -> None:
        """Gives the file, whole and safe on the disk, its name."""
        self._give_up_room()
        if self._file is not None:
            os.fsync(self._file.fileno())
        if os.name == "nt":  # there an open file keeps its name
            self.close()
        self._path.replace(name)
        sync_folder(name.parent)
        self.close()

    def discard(self) -> None:
        """Removes the file; one that another job writes stays."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Closes the file and lets others write it; may be called twice."""
        self._give_up_room()
        if self._file is not None:
            self._file.close()

    def _open(self) -> FileIO:
        self._file = FileIO(lock_file(self._path), "w")
        if hasattr(os, "posix_fallocate"):
            self._take_room()
        return self._file

    def _take_room(self) -> None:
        # It has no name, so that nothing is left of it if the process dies.
        self._room = TemporaryFile(dir=self._path.parent)  # noqa: SIM115
        try:
            os.posix_fallocate(self._room.fileno(), 0, self._size)
        except OSError as error:
            self._give_up_room()
            if error.errno == errno.ENOSPC:
                raise  # other file systems just cannot

    def _give_up_room(self) -> None:
        if self._room is not None:
            self._room.close()
        self._room = None
