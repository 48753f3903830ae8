"""What is known of the frames around: whether they belong together, and what they say of flicker.

Smoothing works where the two decoders disagree (F + B is far from 1) and the picture stands still:
there a change of alpha from one frame to the next is the network's doubt and no movement.  Anywhere
else the network's alpha stays as it is, so that nothing lags behind the people.

Small parts of people, hands above all, that the network loses from one frame to the next are held
for a moment where the picture shows that they are still there, a little further on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.backends import Map
from fusematte.engine.frame import Matte
from fusematte.engine.pixels.color import enlarge

GAP = Fraction(1, 2)
"""Seconds between two frames from which on the first tells nothing of the second."""
CUT = 0.1
"""Mean change of luma, coarsely seen, that is a cut: moving cameras stay below 0.02, cuts between
two scenes are at 0.17 and above."""
COARSE = 32, 18
"""Size at which two frames are compared for a cut."""

HOLD = 0.7
"""The most that the frame before counts for in a smoothed alpha."""
DOUBT = 0.1
"""Disagreement of the decoders that is full doubt."""
STILL = 0.02
"""Change of luma at which stillness has fallen to 1/e."""
_NEARBY = 5, 3
"""Windows over which stillness and doubt are averaged, in pixels of the network."""


SMALL = 0.0004, 0.05
"""Parts of the picture's area that a small part has."""
LOST = 0.5
"""Fall of alpha from one frame to the next that is a loss."""
EDGE = 0.1
"""Fall of alpha out to which a lost part goes."""
REACH = 8
"""Pixels of the network that a part may have moved from one frame to the next."""
_MARGIN = 4
SAME = 0.35
"""Change of luma up to which a part is still there, as a part of its own contrast."""
CREDIT, COST = 24, 3
"""Each frame that a part is seen in lets it be held longer, up to ``CREDIT``; each frame that it is
held in costs so much: 8 frames at most, and none for what has only just come up."""


class Continuity:
    """Tells whether a frame goes on from the one before it.

    before: that frame's luma, coarsely seen, and its time; None where there is none.
    """

    def __init__(self) -> None:
        self.before: tuple[Map, Fraction] | None = None

    def breaks(self, luma: Map, time: Fraction) -> bool:
        """Whether there is a cut or a long gap before this frame; takes note of it.

        Shape:
            luma: [h, w], 0..1, of any size.
        """
        coarse = np.asarray(cv2.resize(luma, COARSE, interpolation=cv2.INTER_AREA), np.float32)
        before, self.before = self.before, (coarse, time)
        if before is None:
            return False
        if not 0 <= time - before[1] <= GAP:
            return True
        return float(np.abs(coarse - before[0]).mean()) > CUT

    def reset(self) -> None:
        """Forgets the frame before."""
        self.before = None


class Smoother:
    """Holds alpha where it flickers, from each frame to the next."""

    def __init__(self) -> None:
        self._before: Matte | None = None
        self._parts = Parts()

    def __call__(self, matte: Matte, *, follows: bool) -> Matte:
        """The matte with its alpha smoothed.

        follows: it goes on from the one before.
        """
        before = self._before if follows else None
        if before is not None:
            held = HOLD * stillness(matte, before) * doubt(matte)
            alpha = matte.alpha + held * (_sized(before.alpha, matte) - matte.alpha)
            matte = self._parts(replace(matte, alpha=alpha), before)
        else:
            self._parts = Parts()
        self._before = matte
        return matte


class Parts:
    """Holds small parts that the network loses although they are still to be seen."""

    def __init__(self) -> None:
        self._credit = np.zeros((1, 1), np.uint8)

    def __call__(self, matte: Matte, before: Matte) -> Matte:
        """The matte with such parts of ``before``, the one shown last, where they are now."""
        shape = matte.alpha.shape
        if before.alpha.shape != shape:
            return matte
        if self._credit.shape != shape:
            self._credit = np.zeros(shape, np.uint8)
        alpha, held = matte.alpha, np.zeros(shape, bool)
        for part in _lost_parts(matte, before):
            then = part.box
            now = _place_of(part, matte.color[0], before.color[0])
            if now is None or self._credit[then][part.mask].max() < COST:
                continue
            alpha = matte.alpha.copy() if alpha is matte.alpha else alpha
            alpha[now] = np.maximum(alpha[now], before.alpha[then] * part.mask)
            held[now] |= part.mask
        self._count(matte.alpha > LOST, held)
        return replace(matte, alpha=alpha)

    def _count(self, seen: NDArray[np.bool_], held: NDArray[np.bool_]) -> None:
        """Parts keep their credit where they move to."""
        near = cv2.dilate(self._credit, np.ones((2 * REACH + 1,) * 2, np.uint8))
        earned = np.minimum(near, CREDIT - 1) + np.uint8(1)
        left = np.maximum(near, COST) - np.uint8(COST)
        self._credit = np.where(seen, earned, np.where(held, left, 0)).astype(np.uint8)


class _Part(NamedTuple):
    """A part of a picture: its box, and what of that is the part."""

    box: tuple[slice, slice]
    mask: NDArray[np.bool_]


def _lost_parts(matte: Matte, before: Matte) -> Iterator[_Part]:
    fall = before.alpha - matte.alpha
    lost = (fall > LOST).astype(np.uint8)
    if not lost.any():
        return
    # What is thinner than this is the edge of something that moves.
    lost = np.asarray(cv2.morphologyEx(lost, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)))
    # The whole of it, out to where alpha does not fall: what is held has no edge of its own.
    _, labels, boxes, _ = cv2.connectedComponentsWithStats((fall > EDGE).astype(np.uint8))
    for label in np.unique(labels[lost > 0]):
        x, y, width, height, area = boxes[label]
        if SMALL[0] * lost.size <= area <= SMALL[1] * lost.size:
            # With some of what is around it, to know it by.
            box = (
                slice(max(0, y - _MARGIN), y + height + _MARGIN),
                slice(max(0, x - _MARGIN), x + width + _MARGIN),
            )
            yield _Part(box, labels[box] == label)


def _place_of(part: _Part, now: Map, before: Map) -> tuple[slice, slice] | None:
    """Where the part's box is now; None if the part is not to be seen any more."""
    rows, columns = part.box
    wanted = np.ascontiguousarray(before[part.box])
    weight = cv2.dilate(part.mask.astype(np.float32), np.ones((5, 5), np.uint8))
    top, left = max(0, rows.start - REACH), max(0, columns.start - REACH)
    around = np.ascontiguousarray(now[top : rows.stop + REACH, left : columns.stop + REACH])
    fits = cv2.matchTemplate(around, wanted, cv2.TM_SQDIFF, mask=weight)
    square, _, (x, y), _ = cv2.minMaxLoc(fits)
    change = math.sqrt(max(0.0, square) / float(weight.sum()))
    if change > SAME * float(wanted[weight > 0].std()):
        return None
    height, width = wanted.shape
    return slice(top + y, top + y + height), slice(left + x, left + x + width)


class Lookahead:
    """Smooths with the frames that come after as well, at the price of ``frames`` frames' delay."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._around: deque[tuple[Matte, bool]] = deque(maxlen=2 * frames + 1)
        self._smoother = Smoother()

    def __call__(self, matte: Matte, *, follows: bool) -> Matte | None:
        """The matte of ``frames`` frames ago, smoothed; None while there is none.

        follows: ``matte`` goes on from the one before it.
        """
        self._around.append((matte, follows))
        index = len(self._around) - 1 - self._frames
        if index < 0:
            return None
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
        """The others around it that belong to the same scene."""
        items = list(self._around)
        first = max((i for i in range(index + 1) if not items[i][1]), default=0)
        last = min((i for i in range(index + 1, len(items)) if not items[i][1]), default=len(items))
        return [items[i][0] for i in range(first, last) if i != index]


def stillness(matte: Matte, other: Matte) -> Map:
    """Where the picture is the same in both: [h, w], 1 where it is, falling to 0."""
    change = cv2.blur(np.abs(matte.color[0] - _sized(other.color[0], matte)), _NEARBY[:1] * 2)
    return np.asarray(np.exp(-((change / STILL) ** 2)), np.float32)


def doubt(matte: Matte) -> Map:
    """Where the two decoders disagree: [h, w], 0 where they do not, up to 1."""
    gap = cv2.blur(np.abs(matte.foreground + matte.background - 1), _NEARBY[1:] * 2)
    return np.asarray(np.clip(gap / DOUBT, 0, 1), np.float32)


def _sized(plane: Map, matte: Matte) -> Map:
    """A map of another frame at this one's size; the network's may change in between."""
    return plane if plane.shape == matte.alpha.shape else enlarge(plane, *matte.alpha.shape)
