"""The journal of a segmented job: its finished segments, in ``OUTPUT.segments/journal.jsonl``."""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from fusematte.engine.errors import OutputError, UsageError, reason_of
from fusematte.engine.jobs.measures import Measure
from fusematte.engine.media.locks import FolderLock, sync_folder
from fusematte.engine.media.notices import Notice

log = logging.getLogger(__name__)
Header = dict[str, Any]
"""Identifies the job: version, input, spans, options."""
FORMAT = 6
"""Version of the journal format."""


class Record(NamedTuple):
    """A finished segment: frames, busy seconds per stage, whether the input was damaged, measures.

    sizes: sizes of its files in bytes, by the outputs' keywords.
    notices: the warnings about its frames.
    """

    segment: int
    frames: int
    busy: dict[str, float]
    damaged: bool
    measures: list[Measure]
    sizes: dict[str, int]
    notices: list[Notice]

    @classmethod
    def parse(cls, value: object) -> Record:
        """Reads a record from a line of the journal.

        Raises:
            KeyError, TypeError, ValueError: it is not a record.
        """
        if not isinstance(value, dict):
            raise TypeError("not a JSON object")
        measures = [Measure(*row) for row in value["measures"]]
        return cls(
            int(value["segment"]),
            int(value["frames"]),
            {str(name): float(seconds) for name, seconds in value["busy"].items()},
            bool(value["damaged"]),
            measures,
            {str(name): int(size) for name, size in value["sizes"].items()},
            [Notice.parse(*notice) for notice in value["notices"]],
        )


class Journal:
    """The finished segments on disk; a line cut short by a kill is ignored.

    While it is open, it locks its folder against other jobs.  It only removes files that a job has
    created.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "journal.jsonl"
        self._lock: FolderLock | None = None

    def begin(self, header: Header) -> None:
        """Starts a new journal; files of an earlier job are deleted.

        Raises:
            OutputError: the folder cannot be created, or another job uses it.
        """
        try:
            self._folder.mkdir(exist_ok=True)
            self._hold()
            self._clear()
        except OSError as error:
            raise OutputError.at(self._folder, f"cannot be created: {reason_of(error)}") from error
        self._append(header)

    def read(self) -> tuple[Header, list[Record]] | None:
        """The header and the finished segments; None if there is no journal.

        A damaged line is skipped: its segment is processed again.

        Raises:
            OutputError: another job uses the folder.
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
            raise UsageError.at(
                self._path, "is damaged", remedy="run without --resume to start over"
            )
        records, kept = [], [first]
        for line in others:
            try:
                records.append(Record.parse(_parse_line(line)))
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                log.info("%s: a damaged line is skipped", self._path)
                continue
            kept.append(line.rstrip("\n") + "\n")
        if kept[1:] != others:
            self._path.write_text("".join(kept), "utf-8")
        return header, records

    def add(self, record: Record) -> None:
        """Records a finished segment."""
        self._append(record._asdict())

    def remove(self) -> None:
        """Removes the job's files and, if it is then empty, the folder."""
        with suppress(OSError):
            self._clear()
            self._folder.rmdir()

    def close(self) -> None:
        """Releases the folder for other jobs."""
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
            raise OutputError.at(self._path, f"cannot be written: {reason_of(error)}") from error


_OURS = re.compile(r"journal\.jsonl|\d{6}-\w*output\.\w+(\.part)?")
"""Names of the files that a job creates in its folder."""


def _parse_line(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
