"""The journal of a job in segments: what is done, in ``OUTPUT.segments/journal.jsonl``."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from fusematte.engine.errors import OutputError
from fusematte.engine.jobs.measures import Measure

Header = dict[str, Any]
"""What job it is: version, input, spans, options."""
FORMAT = 3
"""Version of the journal."""


class Record(NamedTuple):
    """A finished segment: its number, how many frames, seconds of work per stage, whether the input
    was damaged, and what was measured of each matte."""

    segment: int
    frames: int
    busy: dict[str, float]
    damaged: bool
    measures: list[Measure]


class Journal:
    """What is done, on disk; each line is there whole or, after a kill, cut and ignored."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "journal.jsonl"

    def begin(self, header: Header) -> None:
        """Starts anew; what lay in the folder goes.

        Raises:
            OutputError: the folder cannot be made.
        """
        try:
            if self._folder.exists():
                shutil.rmtree(self._folder)
            self._folder.mkdir()
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be made: {error.strerror}") from error
        self._append(header)

    def read(self) -> tuple[Header, list[Record]] | None:
        """The header and the segments that are done; None where there is no journal."""
        try:
            lines = self._path.read_text("utf-8").splitlines(keepends=True)
        except OSError:
            return None
        values = [json.loads(line) for line in lines if line.endswith("\n")]
        if not values:
            return None
        if values[0].get("format") != FORMAT:  # whoever compares headers will say so
            return values[0], []
        records = [
            Record(**{**value, "measures": [Measure(*row) for row in value["measures"]]})
            for value in values[1:]
        ]
        if not lines[-1].endswith("\n"):
            self._path.write_text("".join(lines[:-1]), "utf-8")
        return values[0], records

    def add(self, record: Record) -> None:
        """Notes a finished segment."""
        self._append(record._asdict())

    def _append(self, value: Header) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(value) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error
