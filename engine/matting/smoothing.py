"""Temporal smoothing: removes flicker of alpha without lagging behind movement.

Alpha is only smoothed where the two decoders disagree (F + B is far from 1) and the picture stands
still: a change of alpha there comes from the network's uncertainty, not from movement.  Everywhere
else the network's alpha stays as it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import cv2
import numpy as np

from fusematte.engine.frame import Map, Matte
from fusematte.engine.matting.lost_parts import LostParts
from fusematte.engine.pixels.color import enlarge

HOLD = 0.7
"""Largest weight of the previous frame in a smoothed alpha."""
DOUBT = 0.1
"""Disagreement of the decoders that counts as full doubt."""
STILL = 0.02
"""Change of luma at which stillness has fallen to 1/e."""
_NEARBY = 5, 3
"""Windows over which stillness and doubt are averaged, in pixels at the network's resolution."""


class Smoother:
    """Smooths each matte with the previous one; adds no delay."""

    def __init__(self) -> None:
        self._before: Matte | None = None
        self._parts = LostParts()

    def __call__(self, matte: Matte, *, follows: bool) -> Matte:
        """The matte with its alpha smoothed.

        follows: whether it continues from the previous one.
        """
        before = self._before if follows else None
        if before is not None:
            held = HOLD * stillness(matte, before) * doubt(matte)
            alpha = matte.alpha + held * (_sized(before.alpha, matte) - matte.alpha)
            matte = self._parts(replace(matte, alpha=alpha), before)
        else:
            self._parts = LostParts()
        self._before = matte
        return matte


class Lookahead:
    """Smooths each matte with the following ones as well, which delays it by ``frames`` frames."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._around: deque[tuple[Matte, bool]] = deque(maxlen=2 * frames + 1)
        self._waiting = 0
        self._smoother = Smoother()

    def __call__(self, matte: Matte, *, follows: bool) -> Matte | None:
        """The matte of ``frames`` frames ago, smoothed; None until there is one.

        follows: whether ``matte`` continues from the previous one.
        """
        self._around.append((matte, follows))
        self._waiting += 1
        return self._next() if self._waiting > self._frames else None

    def drain(self) -> list[Matte]:
        """At the end of the video: the mattes still held back."""
        return [self._next() for _ in range(self._waiting)]

    def _next(self) -> Matte:
        index = len(self._around) - self._waiting
        self._waiting -= 1
        return self._smoother(self._smoothed(index), follows=self._around[index][1])

    def _smoothed(self, index: int) -> Matte:
        matte = self._around[index][0]
        total, weights = matte.alpha.copy(), np.ones_like(matte.alpha)
        for other in self._scene_of(index):
            still = stillness(matte, other)
            total += still * _sized(other.alpha, matte)
            weights += still
        unsure = doubt(matte)
        return replace(matte, alpha=matte.alpha + unsure * (total / weights - matte.alpha))

    def _scene_of(self, index: int) -> list[Matte]:
        """The neighbouring mattes within the window that belong to the same scene."""
        first = last = index
        earliest, latest = max(0, index - self._frames), index + self._frames
        while first > earliest and self._around[first][1]:
            first -= 1
        while last < min(latest, len(self._around) - 1) and self._around[last + 1][1]:
            last += 1
        return [self._around[i][0] for i in range(first, last + 1) if i != index]


def stillness(matte: Matte, other: Matte) -> Map:
    """How little the picture changed between two mattes: [h, w], 1 for no change, down to 0."""
    change = cv2.blur(np.abs(matte.color[0] - _sized(other.color[0], matte)), _NEARBY[:1] * 2)
    return np.asarray(np.exp(-((change / STILL) ** 2)), np.float32)


def doubt(matte: Matte) -> Map:
    """How far the two decoders disagree: [h, w], 0 for agreement, up to 1."""
    gap = cv2.blur(np.abs(matte.foreground + matte.background - 1), _NEARBY[1:] * 2)
    return np.asarray(np.clip(gap / DOUBT, 0, 1), np.float32)


def _sized(plane: Map, matte: Matte) -> Map:
    """A map of another matte at this one's size; the network's size may have changed in between."""
    return plane if plane.shape == matte.alpha.shape else enlarge(plane, *matte.alpha.shape)
