"""Progress of a job: a bar on a terminal, occasional lines elsewhere, or JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import TextIO

from fusematte.engine.media.reader import Reader
from fusematte.engine.pipeline import Statistics

BAR_WIDTH = 30
BAR_INTERVAL = 0.1
LINE_INTERVAL = 10.0
JSON_INTERVAL = 0.5
"""Seconds between updates."""


class ProgressReport:
    """A ``Progress`` callback that writes to a stream, stderr by default."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._interval = BAR_INTERVAL if self._terminal else LINE_INTERVAL
        self._last = time.perf_counter()

    def __call__(self, frames: int, reader: Reader, statistics: Statistics) -> None:
        now = time.perf_counter()
        if now - self._last < self._interval:
            return
        self._last = now
        rate = (frames - statistics.skipped) / statistics.elapsed
        text = describe(frames, reader.frame_count, rate)
        if self._terminal:
            self._stream.write(f"\r{bar(frames, reader.frame_count)}{text}\x1b[K")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Erases the bar from the terminal before other output."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class JsonProgress:
    """A ``Progress`` callback for programs: JSON, one object per line.

    Each object has an ``event``: ``progress`` has input, frames, total (null if unknown), fps and
    seconds_left; the other events carry the facts given to ``tell``.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._last = -JSON_INTERVAL

    def __call__(self, frames: int, reader: Reader, statistics: Statistics) -> None:
        now = time.perf_counter()
        if now - self._last < JSON_INTERVAL:
            return
        self._last, total = now, reader.frame_count
        rate = (frames - statistics.skipped) / statistics.elapsed
        left = (total - frames) / rate if total and rate and total >= frames else None
        self.tell(
            "progress", input=reader.name, frames=frames, total=total, fps=round(rate, 2),
            seconds_left=None if left is None else round(left, 1),
        )  # fmt: skip

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


def bar(frames: int, total: int | None) -> str:
    """The bar itself with a percentage; empty if the total is unknown."""
    if not total or frames > total:
        return ""
    filled = BAR_WIDTH * frames // total
    return f"[{'█' * filled}{'·' * (BAR_WIDTH - filled)}] {100 * frames // total:3d}% "


def clock(seconds: float) -> str:
    """Formats seconds as ``m:ss``, or ``h:mm:ss`` from an hour up."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
