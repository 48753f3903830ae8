"""Fail closed, in time: what a viewer sees while results fail to come.

Never the camera's own picture, and never a time before the last one shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fusematte.engine.frame import CLOCK, Frame
from fusematte.engine.live.session import Result, Session

STALL = 0.5
"""Seconds without a result after which the background takes the last composite's place."""
STEP = 90
"""Units of ``CLOCK`` between two frames shown, at least: a millisecond, which is what Matroska and
FLV can tell apart."""
LATE = 60
"""Seconds; a source whose time goes back by more has started anew."""


class FailClosed:
    """Stands between a session and a viewer: says when the closed frame is due, and gives whatever
    is shown a time that only increases.

    clock: seconds, steady.
    """

    def __init__(self, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self._session, self._clock = session, clock
        self._last_result: float | None = None
        self._last_pts: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there was a result yet."""
        return self._last_result is not None

    @property
    def is_due(self) -> bool:
        """Whether results have failed to come for so long that the closed frame is to be shown."""
        return self._last_result is None or self._clock() - self._last_result > STALL

    def note(self, _: Result) -> None:
        """Takes note of a result."""
        self._last_result = self._clock()

    def closed_frame(self, like: Frame) -> Frame:
        """What to show in a result's place, at the time of ``like``."""
        return self._session.closed_frame(like)

    def shown_at(self, pts: int) -> int:
        """When a picture of this time is shown: then, or just after the last one.

        A result is of an earlier moment than a closed frame that was shown before it came.  All in
        units of ``CLOCK``.
        """
        last = self._last_pts
        if last is not None and 0 <= last + STEP - pts < LATE / CLOCK:
            pts = last + STEP
        self._last_pts = pts
        return pts
