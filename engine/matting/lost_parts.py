"""Holds small parts of a person, hands above all, that the network loses for a few frames.

A lost part is searched near its last place in the new picture; if it is still visible there, its
alpha is kept for up to eight frames.
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
"""Minimum and maximum area of a part, as shares of the picture's area."""
LOST = 0.5
"""Drop of alpha from one frame to the next that counts as a loss."""
EDGE = 0.1
"""A lost part extends over the neighbouring pixels whose alpha dropped by more than this."""
REACH = 8
"""Search radius for a lost part, in pixels at the network's resolution."""
_MARGIN = 4
SAME = 0.35
"""A part is still visible if its luma changed by at most this share of its own contrast."""
CREDIT, COST = 24, 3
"""A part gains one credit in each frame where the network sees it, up to ``CREDIT``; each frame
where it is held costs ``COST``: 8 frames at most, none for a part that has only just appeared."""


class LostParts:
    """Holds small parts that the network loses although they are still visible."""

    def __init__(self) -> None:
        self._credit = np.zeros((1, 1), np.uint8)

    def __call__(self, matte: Matte, before: Matte) -> Matte:
        """The matte with the lost parts of ``before``, the previous result, at their new places."""
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
        """Updates the credits; a part takes its credit along when it moves."""
        near = cv2.dilate(self._credit, np.ones((2 * REACH + 1,) * 2, np.uint8))
        earned = np.minimum(near, CREDIT - 1) + np.uint8(1)
        left = np.maximum(near, COST) - np.uint8(COST)
        self._credit = earned * seen + left * (held & ~seen)


class _Part(NamedTuple):
    """A connected region: its bounding box, and its mask within the box."""

    box: tuple[slice, slice]
    mask: NDArray[np.bool_]


def _lost_parts(matte: Matte, before: Matte) -> Iterator[_Part]:
    fall = before.alpha - matte.alpha
    lost = (fall > LOST).astype(np.uint8)
    if not lost.any():
        return
    # Anything thinner is the edge of a moving object.
    lost = np.asarray(cv2.morphologyEx(lost, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)))
    if not lost.any():
        return
    # The whole region, out to where alpha did not drop: a held part gets no edge of its own.
    _, labels, boxes, _ = cv2.connectedComponentsWithStats((fall > EDGE).astype(np.uint8))
    for label in np.unique(labels[lost > 0]):
        x, y, width, height, area = boxes[label]
        if SMALL[0] * lost.size <= area <= SMALL[1] * lost.size:
            # With a margin, so that its surroundings help to recognise it.
            box = (
                slice(max(0, y - _MARGIN), y + height + _MARGIN),
                slice(max(0, x - _MARGIN), x + width + _MARGIN),
            )
            yield _Part(box, labels[box] == label)


def _place_of(part: _Part, now: Map, before: Map) -> tuple[slice, slice] | None:
    """The part's box in the current frame; None if the part is no longer visible."""
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
