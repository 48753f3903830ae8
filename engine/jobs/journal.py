"""The journal of a job in segments: what is done, in ``OUTPUT.segments/journal.jsonl``."""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from fusematte.engine.errors import OutputError, UsageError
from fusematte.engine.jobs.measures import Measure
from fusematte.engine.media.locks import FolderLock, sync_folder

log = logging.getLogger(__name__)
Header = dict[str, Any]
"""What job it is: version, input, spans, options."""
FORMAT = 4
"""Version of the journal."""


class Record(NamedTuple):
    """A finished segment: how many frames, seconds of work per stage, whether input was damaged.

    sizes: of its files, in bytes, by the outputs' keywords.
    """

    segment: int
    frames: int
    busy: dict[str, float]
    damaged: bool
    measures: list[Measure]
    sizes: dict[str, int]

    @classmethod
    def parse(cls, value: object) -> Record:
        """From a line of the journal.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        if not isinstance(value, dict):
            raise TypeError("no object")
        measures = [Measure(*row) for row in value["measures"]]
        return cls(
            int(value["segment"]),
            int(value["frames"]),
            {str(name): float(seconds) for name, seconds in value["busy"].items()},
            bool(value["damaged"]),
            measures,
            {str(name): int(size) for name, size in value["sizes"].items()},
        )


class Journal:
    """What is done, on disk; each line is there whole or, after a kill, cut and ignored.

    While it is open no other job works in its folder, of which it removes nothing but what a job
    has put there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "journal.jsonl"
        self._lock: FolderLock | None = None

    def begin(self, header: Header) -> None:
        """Starts anew; what an earlier job left in the folder goes.

        Raises:
            OutputError: the folder cannot be made, or another job works there.
        """
        try:
            self._folder.mkdir(exist_ok=True)
            self._hold()
            self._clear()
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be made: {error.strerror}") from error
        self._append(header)

    def read(self) -> tuple[Header, list[Record]] | None:
        """The header and the segments that are done; None where there is no journal.

        A line that is none is passed over: its segment is done again.

        Raises:
            OutputError: another job works in the folder.
            UsageError: the first line is damaged.
        """
        if not self._path.is_file():
            return None
        self._hold()
        try:
            text = self._path.read_text("utf-8", errors="replace")
        except OSError:
            return None
        first, *others = text.splitlines(keepends=True) or [""]
        if not first.endswith("\n"):
            return None
        header = _parse_line(first)
        if not isinstance(header, dict) or not isinstance(header.get("options"), dict):
            raise UsageError(f"{self._path}: is damaged; run without --resume to start anew")
        records, kept = [], [first]
        for line in others:
            try:
                records.append(Record.parse(_parse_line(line)))
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                log.info("%s: a damaged line is passed over", self._path)
                continue
            kept.append(line.rstrip("\n") + "\n")
        if kept[1:] != others:
            self._path.write_text("".join(kept), "utf-8")
        return header, records

    def add(self, record: Record) -> None:
        """Notes a finished segment."""
        self._append(record._asdict())

    def remove(self) -> None:
        """Removes the folder, and what a job has put into it."""
        with suppress(OSError):
            self._clear()
            self._folder.rmdir()

    def close(self) -> None:
        """Lets other jobs in."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def _hold(self) -> None:
        if self._lock is None:
            self._lock = FolderLock(self._folder)

    def _clear(self) -> None:
        for file in self._folder.iterdir():
            if _OURS.fullmatch(file.name) and not file.is_dir():
                file.unlink()

    def _append(self, value: Header) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(value) + "\n")
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error


_OURS = re.compile(r"journal\.jsonl|\d{6}-\w*output\.\w+(\.part)?")
"""Names of what a job puts into its folder."""


def _parse_line(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
