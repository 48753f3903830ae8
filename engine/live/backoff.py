"""How long to wait before trying again what has failed: longer each time, up to a limit."""

from __future__ import annotations

FIRST, LIMIT = 0.25, 1.0
"""Seconds."""


class BackOff:
    """Says when the next try is due; the caller tells the time, in seconds of any steady clock."""

    def __init__(self) -> None:
        self._delay, self._due = FIRST, 0.0

    def failed(self, now: float) -> float:
        """Takes note of a failure; returns the seconds until the next try."""
        delay = self._delay
        self._due, self._delay = now + delay, min(2 * delay, LIMIT)
        return delay

    def succeeded(self) -> None:
        """Starts from the shortest wait again."""
        self._delay, self._due = FIRST, 0.0

    def is_due(self, now: float) -> bool:
        """Whether to try now."""
        return now >= self._due
