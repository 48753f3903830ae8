"""The latency governor: chooses how the network runs so that the latency budget is kept.

Pure logic: it gets the times of frames and returns a level, without a clock or a network.  It goes
down quickly, because a missed budget is visible.  It goes up when the level above is expected to
fit with a margin, and waits longer each time that this was wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple


class Level(NamedTuple):
    """How the network runs.

    scale: factor on the model's network area; carried: whether frames do without it and carry its
    last matte, see ``engine.matting.carried``.
    """

    scale: float
    carried: bool = False


LEVELS = (
    Level(1.0),
    Level(1.0, carried=True),
    Level(0.58, carried=True),
    Level(0.31, carried=True),
)
"""The best first; each smaller network has about 3/4 of the side of the one above."""
WINDOW = 150
"""Number of recent frames considered."""
MISSES = 3
"""So many frames of the window over the budget are too many: 98 of 100 frames must keep it."""
ENOUGH = 60
"""Frames at a level that are needed before going up, or down because of its network."""
ROOM = 0.85
"""The expected latency of the level above must be below this share of the budget."""
SLOW = 120.0
"""Milliseconds for a carried matte above which a smaller network, whose mattes are younger, is as
good (benchmarks/results/carried.json)."""
PATIENCE = 2.0
"""Seconds that the margin must last before going up; doubled each time going up was wrong."""
MAX_PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A change of level: time (seconds of the caller's clock), old and new level, and reason."""

    time: float
    before: Level
    after: Level
    why: str


class Governor:
    """Chooses among ``LEVELS`` so that frames take at most ``budget_ms``.

    level: that of the next frame; given, that until ``begin``.
    decisions: the last changes, oldest first.
    """

    def __init__(self, budget_ms: float, level: Level = LEVELS[0]) -> None:
        self.budget_ms = budget_ms
        self.decisions: deque[Decision] = deque(maxlen=50)
        self.changes = 0
        self._index = LEVELS.index(level)
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._network: deque[float] = deque(maxlen=WINDOW)
        self._patience = PATIENCE
        self._room_since: float | None = None
        self._went_up: float | None = None

    @property
    def level(self) -> Level:
        """The current level."""
        return LEVELS[self._index]

    def begin(self, network_ms: float) -> None:
        """Chooses the first level: frames wait for a network that takes so long, if they can."""
        self._index = 0 if network_ms <= ROOM * self.budget_ms else 1

    @property
    def holds(self) -> bool:
        """Whether recent frames kept the budget, except for fewer than ``MISSES``."""
        return self._misses() < MISSES

    def observe(self, now: float, latency_ms: float, network_ms: float, level: Level) -> None:
        """Registers one frame.

        now: seconds of any steady clock; latency_ms: from arrival to result; network_ms: inference
        time, within that or, of a carried matte, before it; level: the level it was processed at
        (frames that were in flight when the level changed are ignored).
        """
        if level != self.level:
            return
        self._latencies.append(latency_ms)
        self._network.append(network_ms)
        if self._misses() >= MISSES:
            self._down(now, f"{self._misses()} frames over {self.budget_ms:.0f} ms")
        elif len(self._latencies) < ENOUGH:
            return
        elif level.carried and self._network_ms > SLOW:
            self._down(now, f"mattes take {self._network_ms:.0f} ms")
        elif self._index:
            self._consider_up(now)

    def _misses(self) -> int:
        return sum(latency > self.budget_ms for latency in self._latencies)

    @property
    def _network_ms(self) -> float:
        return median(self._network)

    def _down(self, now: float, why: str) -> None:
        if self._went_up is not None and now - self._went_up < 2 * self._patience:
            self._patience = min(2 * self._patience, MAX_PATIENCE)
        self._went_up = None
        if self._index + 1 < len(LEVELS):
            self._move(now, 1, why)

    def _consider_up(self, now: float) -> None:
        fits, why = self._expects_above()
        if not fits:
            self._room_since = None
            return
        if self._room_since is None:
            self._room_since = now
        if now - self._room_since >= self._patience:
            self._move(now, -1, why)
            self._went_up = now

    def _expects_above(self) -> tuple[bool, str]:
        """Whether the level above is expected to fit, and why.

        Frames that wait for the network are late by its time; of a larger network whose mattes are
        carried these become older.
        """
        above, slow = LEVELS[self._index - 1], sorted(self._latencies)[-MISSES]
        network = self._network_ms * above.scale / self.level.scale
        expected = slow if above.carried else slow + network
        fits = expected <= ROOM * self.budget_ms and not (above.carried and network > ROOM * SLOW)
        return fits, f"{expected:.0f} ms expected"

    def _move(self, now: float, step: int, why: str) -> None:
        before = self.level
        self._index += step
        self.changes += 1
        self.decisions.append(Decision(time=now, before=before, after=self.level, why=why))
        self._latencies.clear()
        self._network.clear()
        self._room_since = None
