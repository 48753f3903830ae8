"""The latency governor: which of the prepared network sizes holds the budget.

Pure logic: it is told how long frames took and answers with a level; it knows neither clock nor
network.  Going down is quick, because a missed budget is seen; going up waits until the larger
network would fit with room to spare, and longer each time that this turned out wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

LEVELS = (1.0, 0.58, 0.31)
"""Network areas to choose from, as parts of the model's own: about 3/4 of the side each."""
WINDOW = 150
"""Frames that are looked at."""
MISSES = 3
"""That many of the window over the budget are too many: 98 of 100 frames shall keep it."""
ENOUGH = 60
"""Frames of a level that must have been seen before going up."""
ROOM = 0.85
"""A larger network must be expected to need no more than this part of the budget."""
PATIENCE = 2.0
"""Seconds of room before going up; doubled after each time that going up was wrong."""
MAX_PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A change of level: when (seconds, the caller's clock), from where to where, and why."""

    time: float
    before: float
    after: float
    why: str


class Governor:
    """Chooses among ``levels`` such that frames take at most ``budget_ms``.

    level: the part of the model's own area that the next frame should get.
    decisions: the last changes, oldest first.
    """

    def __init__(self, budget_ms: float, levels: tuple[float, ...] = LEVELS) -> None:
        self.budget_ms = budget_ms
        self.levels = levels
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
        """The part of the model's own area."""
        return self.levels[self._index]

    @property
    def holds(self) -> bool:
        """Whether the frames looked at last kept the budget, but for a stray one."""
        return self._misses() < MISSES

    def observe(self, now: float, latency_ms: float, network_ms: float, level: float) -> None:
        """Takes note of one frame.

        now: seconds, any steady clock; latency_ms: from its arrival to its result; network_ms: the
        network's part of that; level: the one it was made with (frames under way when the level
        changed say nothing about the new one).
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
        if self._index + 1 < len(self.levels):
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
        """The slow frames' latency at the next level up: the network's usual part grows with the
        area; what made those frames slow does not."""
        growth = self.levels[self._index - 1] / self.level
        return sorted(self._latencies)[-MISSES] + (growth - 1) * median(self._network)

    def _move(self, now: float, step: int, why: str) -> None:
        before = self.level
        self._index += step
        self.changes += 1
        self.decisions.append(Decision(time=now, before=before, after=self.level, why=why))
        self._latencies.clear()
        self._network.clear()
        self._room_since = None
