"""FLV files that were joined byte by byte, of which libav reads the first part alone.

Between two parts lies the header of the second.  Without it they are one file whose timestamps
start again at the joint, and ``Timeline`` repairs those.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

_HEADER = re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0\0\0\0(?=[\x08\x09\x12])", re.DOTALL)
"""A header without options, "no tag before", and the type of the first tag."""
_LENGTH = 13
_CHUNK = 1 << 20


def find_joints(path: Path) -> tuple[int, ...]:
    """Where in a file the headers of further parts begin; empty if there are none, or no FLV."""
    stat = path.stat()
    return _find_joints(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _find_joints(path: Path, size: int, changed: int) -> tuple[int, ...]:  # noqa: ARG001
    joints: list[int] = []
    with path.open("rb") as file:
        if not _HEADER.match(file.read(_LENGTH + 1)):
            return ()
        at, kept = _LENGTH + 1, b""
        while chunk := file.read(_CHUNK):
            data = kept + chunk
            joints += [at - len(kept) + found.start() for found in _HEADER.finditer(data)]
            at, kept = at + len(chunk), data[-_LENGTH:]
    return tuple(joints)


class JoinedFlv:
    """The parts as one file for libav, without the headers between them.

    joints: of ``find_joints``.
    """

    def __init__(self, path: Path, joints: tuple[int, ...]) -> None:
        self.name = os.fspath(path)
        self._file = path.open("rb")
        ends = (*joints, path.stat().st_size)
        self._begins = (0, *(joint + _LENGTH for joint in joints))  # of the parts, in the file
        sizes = (end - begin for begin, end in zip(self._begins, ends, strict=True))
        self._starts = (0, *accumulate(sizes))  # of the parts, and their end, in what is read
        self._at = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes of one part; empty at the end."""
        if self._at >= self._starts[-1]:
            return b""
        part = bisect_right(self._starts, self._at) - 1
        self._file.seek(self._begins[part] + self._at - self._starts[part])
        data = self._file.read(min(size, self._starts[part + 1] - self._at))
        self._at += len(data)
        return data

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position; returns it."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
