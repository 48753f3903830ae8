"""Exponential back-off between retries."""

from __future__ import annotations

FIRST, LIMIT = 0.25, 1.0
"""Seconds."""


class BackOff:
    """Computes when the next retry is due; ``now`` is in seconds of any steady clock."""

    def __init__(self) -> None:
        self._delay, self._due = FIRST, 0.0

    def failed(self, now: float) -> float:
        """Registers a failure; returns the seconds until the next retry."""
        delay = self._delay
        self._due, self._delay = now + delay, min(2 * delay, LIMIT)
        return delay

    def succeeded(self) -> None:
        """Resets the wait to the shortest one."""
        self._delay, self._due = FIRST, 0.0

    def is_due(self, now: float) -> bool:
        """Whether a retry is due."""
        return now >= self._due
