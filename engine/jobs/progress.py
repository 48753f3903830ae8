"""Progress of a command: a bar on a terminal, occasional lines elsewhere, or JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from fusematte.engine.media.reader import Reader
from fusematte.engine.pipeline import Statistics

BAR_WIDTH = 30
BAR_INTERVAL = 0.1
LINE_INTERVAL = 10.0
JSON_INTERVAL = 0.5
"""Seconds between updates."""
SHOWN = 3
"""Files in progress that are named."""


class _Pace:
    """Says when the next update is due: ``interval`` seconds after the last one."""

    def __init__(self, interval: float, last: float) -> None:
        self._interval, self._last = interval, last

    def is_due(self) -> bool:
        """Whether the next update is due; if it is, the following one is due an interval later."""
        now = time.perf_counter()
        due = now - self._last >= self._interval
        if due:
            self._last = now
        return due


class ProgressReport:
    """A ``Progress`` callback that writes to a stream, stderr by default.

    files: how many files there are; with several, the bar is that of all of them.  Several threads
    may call it, each with the reader of its own file.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._begun = time.perf_counter()
        self._pace = _Pace(BAR_INTERVAL if self._terminal else LINE_INTERVAL, self._begun)
        self.files, self._finished = 1, 0
        self._shares: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, frames: int, reader: Reader, statistics: Statistics) -> None:
        with self._lock:
            total = reader.frame_count
            self._shares[reader.name] = min(1.0, frames / total) if total else 0.0
            if not self._pace.is_due():
                return
            if self.files > 1:
                self._show(self._finished + sum(self._shares.values()), self.files, self._all())
                return
            rate = (frames - statistics.skipped) / statistics.elapsed
            self._show(frames, total, describe(frames, total, rate))

    def count(self, done: int, total: int | None, unit: str) -> None:
        """Reports other work than a video's: ``done`` of ``total`` things, called ``unit``."""
        if self._pace.is_due():
            of = f"/{total}" if total else ""
            self._show(done, total, f"{done}{of} {unit}{self._left(done, total)}")

    def finish(self, name: str) -> None:
        """Registers that a file, one of several, is finished."""
        with self._lock:
            self._shares.pop(name, None)
            self._finished += 1

    def clear(self) -> None:
        """Erases the bar from the terminal before other output."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _all(self) -> str:
        """``3/12 files, 4:10 left: talk.mp4 40 %, walk.mp4 12 %``."""
        running = list(self._shares.items())
        left = self._left(self._finished + sum(self._shares.values()), self.files)
        named = [f"{Path(name).name} {100 * share:.0f} %" for name, share in running[:SHOWN]]
        more = f" and {len(running) - SHOWN} more" if len(running) > SHOWN else ""
        return f"{self._finished}/{self.files} files{left}: {', '.join(named)}{more}"

    def _left(self, done: float, total: int | None) -> str:
        seconds = seconds_left(self._begun, done, total)
        return "" if seconds is None else f", {clock(seconds)} left"

    def _show(self, done: float, total: int | None, text: str) -> None:
        if self._terminal:
            self._stream.write(f"\r{bar(done, total)}{text}\x1b[K")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()


class JsonProgress:
    """A ``Progress`` callback for programs: JSON, one object per line.

    Each object has an ``event``.  ``progress`` of a video has input, frames, total (null if
    unknown), fps and seconds_left; of other work done, total, unit and seconds_left.  The other
    events carry the facts given to ``tell``.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._begun = time.perf_counter()
        self._pace = _Pace(JSON_INTERVAL, self._begun - JSON_INTERVAL)  # the first one at once

    def __call__(self, frames: int, reader: Reader, statistics: Statistics) -> None:
        if not self._pace.is_due():
            return
        total = reader.frame_count
        rate = (frames - statistics.skipped) / statistics.elapsed
        left = (total - frames) / rate if total and rate and total >= frames else None
        self.tell(
            "progress", input=reader.name, frames=frames, total=total, fps=round(rate, 2),
            seconds_left=None if left is None else round(left, 1),
        )  # fmt: skip

    def count(self, done: int, total: int | None, unit: str, **facts: object) -> None:
        """Reports other work than a video's, as ``ProgressReport`` does; ``facts`` are added."""
        if self._pace.is_due():
            left = seconds_left(self._begun, done, total)
            left = None if left is None else round(left, 1)
            self.tell("progress", done=done, total=total, unit=unit, seconds_left=left, **facts)

    def tell(self, event: str, **facts: object) -> None:
        """Writes one line."""
        print(json.dumps({"event": event, **facts}), file=self._stream, flush=True)

    def clear(self) -> None:
        """Does nothing: there is no bar."""


def describe(frames: int, total: int | None, rate: float) -> str:
    """Frames so far, frames per second, time left: ``120/900 frames, 25.1 fps, 0:31 left``."""
    if not total or frames > total:
        return f"{frames} frames, {rate:.1f} fps"
    left = (total - frames) / rate if rate else 0.0
    return f"{frames}/{total} frames, {rate:.1f} fps, {clock(left)} left"


def seconds_left(begun: float, done: float, total: int | None) -> float | None:
    """The time that the rest takes if it goes on as since ``begun``; None if that is unknown."""
    if not total or not 0 < done <= total:
        return None
    return (time.perf_counter() - begun) * (total - done) / done


def bar(done: float, total: int | None) -> str:
    """The bar itself with a percentage; empty if the total is unknown."""
    if not total or done > total:
        return ""
    filled = int(BAR_WIDTH * done / total)
    return f"[{'█' * filled}{'·' * (BAR_WIDTH - filled)}] {int(100 * done / total):3d}% "


def clock(seconds: float) -> str:
    """Formats seconds as ``m:ss``, or ``h:mm:ss`` from an hour up."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
