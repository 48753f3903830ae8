"""Small parts of a person, hands above all, that the network loses from one frame to the next.

They are held for a moment where the picture shows that they are still there, a little further on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Map, Matte

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


class LostParts:
    """Holds small parts that the network loses although they can still be seen."""

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
