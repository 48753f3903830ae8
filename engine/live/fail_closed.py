"""Fail closed: what a viewer sees when there are no results.

It is never the camera's own picture, and its timestamps never go back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fusematte.engine.frame import CLOCK

STALL = 0.5
"""Seconds without a result after which the closed frame is shown."""
STEP = 90
"""Minimum distance of two timestamps in units of ``CLOCK``: a millisecond, the resolution of
Matroska and FLV."""
LATE = 60
"""Seconds; if timestamps go back by more, a source that may restart has restarted."""


class FailClosed:
    """Tells when the closed frame must be shown in place of results, and makes the timestamps of
    what is shown strictly increasing.

    clock: a steady clock, in seconds; restarts: whether the timestamps may begin anew.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, restarts: bool = True
    ) -> None:
        self._clock, self._restarts = clock, restarts
        self._last_result: float | None = None
        self._last_pts: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there was any result."""
        return self._last_result is not None

    @property
    def is_due(self) -> bool:
        """Whether the closed frame must be shown, because there was no result for ``STALL`` s."""
        return self._last_result is None or self._clock() - self._last_result > STALL

    def note(self) -> None:
        """Registers a result."""
        self._last_result = self._clock()

    def shown_at(self, pts: int) -> int:
        """The timestamp to show a picture with: its own, or just after the last one shown.

        A result may be older than a closed frame shown before it.  In units of ``CLOCK``.
        """
        last = self._last_pts
        late = -1 if last is None else last + STEP - pts
        if late >= 0 and not (self._restarts and late >= LATE / CLOCK):
            pts += late
        self._last_pts = pts
        return pts
