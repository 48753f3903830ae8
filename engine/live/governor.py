"""The latency governor: chooses the network size that keeps the latency budget.

Pure logic: it gets the times of frames and returns a level, without a clock or a network.  It goes
down quickly, because a missed budget is visible.  It goes up when the larger network is expected to
fit with a margin, and waits longer each time that this was wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

LEVELS = (1.0, 0.58, 0.31)
"""Factors on the model's network area; each level has about 3/4 of the side of the one above."""
WINDOW = 150
"""Number of recent frames considered."""
MISSES = 3
"""So many frames of the window over the budget are too many: 98 of 100 frames must keep it."""
ENOUGH = 60
"""Frames at a level that are needed before going up."""
ROOM = 0.85
"""The expected latency of the larger network must be below this share of the budget."""
PATIENCE = 2.0
"""Seconds that the margin must last before going up; doubled each time going up was wrong."""
MAX_PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A change of level: time (seconds of the caller's clock), old and new level, and reason."""

    time: float
    before: float
    after: float
    why: str


class Governor:
    """Chooses among ``LEVELS`` so that frames take at most ``budget_ms``.

    level: factor on the network's area for the next frame.
    decisions: the last changes, oldest first.
    """

    def __init__(self, budget_ms: float) -> None:
        self.budget_ms = budget_ms
        self.decisions: deque[Decision] = deque(maxlen=50)
        self.changes = 0
        self._index = 0
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._network: deque[float] = deque(maxlen=WINDOW)
        self._patience = PATIENCE
        self._room_since: float | None = None
        self._went_up: float | None = None

    @property
    def level(self) -> float:
        """The current factor on the model's area."""
        return LEVELS[self._index]

    @property
    def holds(self) -> bool:
        """Whether recent frames kept the budget, except for fewer than ``MISSES``."""
        return self._misses() < MISSES

    def observe(self, now: float, latency_ms: float, network_ms: float, level: float) -> None:
        """Registers one frame.

        now: seconds of any steady clock; latency_ms: from arrival to result; network_ms: inference
        time within that; level: the level it was processed at (frames that were in flight when the
        level changed are ignored).
        """
        if level != self.level:
            return
        self._latencies.append(latency_ms)
        self._network.append(network_ms)
        if self._misses() >= MISSES:
            self._down(now)
        elif len(self._latencies) >= ENOUGH and self._index:
            self._consider_up(now)

    def _misses(self) -> int:
        return sum(latency > self.budget_ms for latency in self._latencies)

    def _down(self, now: float) -> None:
        if self._went_up is not None and now - self._went_up < 2 * self._patience:
            self._patience = min(2 * self._patience, MAX_PATIENCE)
        self._went_up = None
        if self._index + 1 < len(LEVELS):
            self._move(now, 1, f"{self._misses()} frames over {self.budget_ms:.0f} ms")

    def _consider_up(self, now: float) -> None:
        expected = self._expected_above()
        if expected > ROOM * self.budget_ms:
            self._room_since = None
            return
        if self._room_since is None:
            self._room_since = now
        if now - self._room_since >= self._patience:
            self._move(now, -1, f"{expected:.0f} ms expected")
            self._went_up = now

    def _expected_above(self) -> float:
        """The expected latency of slow frames at the next level up: inference time grows with the
        area, the other delays do not."""
        growth = LEVELS[self._index - 1] / self.level
        return sorted(self._latencies)[-MISSES] + (growth - 1) * median(self._network)

    def _move(self, now: float, step: int, why: str) -> None:
        before = self.level
        self._index += step
        self.changes += 1
        self.decisions.append(Decision(time=now, before=before, after=self.level, why=why))
        self._latencies.clear()
        self._network.clear()
        self._room_since = None
