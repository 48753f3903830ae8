"""Smoothing within the stages, with the frames that lookahead holds back."""

from __future__ import annotations

import time
from collections import deque

from fusematte.engine.frame import Matte
from fusematte.engine.matting.smoothing import Lookahead, Smoother
from fusematte.engine.stages.contract import Matted, StageOptions


class Smoothed:
    """Smooths the mattes of one video's frames as the options say."""

    def __init__(self, options: StageOptions) -> None:
        self._options = options
        self._smoother = self._new_smoother()
        self._held: deque[Matted] = deque()

    def __call__(self, matted: Matted, *, follows: bool) -> list[Matted]:
        """The frames that are ready: this one, an older one, or none.

        follows: whether the frame continues from the previous one.
        """
        if self._smoother is None:
            return [matted]
        assert matted.matte is not None
        begun = time.perf_counter()
        smoothed = self._smoother(matted.matte, follows=follows)
        matted.seconds["smooth"] = time.perf_counter() - begun
        self._held.append(matted)
        return [] if smoothed is None else [self._next(smoothed)]

    def drain(self) -> list[Matted]:
        """At the end of the video: the frames still held back."""
        if not isinstance(self._smoother, Lookahead):
            return []
        return [self._next(matte) for matte in self._smoother.drain()]

    def reset(self) -> list[Matted]:
        """Resets the smoothing; returns the frames that were held back, not smoothed."""
        held = list(self._held)
        self._held.clear()
        self._smoother = self._new_smoother()
        return held

    def _next(self, matte: Matte) -> Matted:
        """The frame held back longest, with its smoothed matte."""
        matted = self._held.popleft()
        matted.matte = matte
        return matted

    def _new_smoother(self) -> Smoother | Lookahead | None:
        if self._options.lookahead:
            return Lookahead(self._options.lookahead)
        return Smoother() if self._options.smoothing else None
