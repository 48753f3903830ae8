"""Matting of still pictures."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Frame, Map, Matte, displayed_size
from fusematte.engine.matting.mask import WHOLE, Mask, edited_alpha
from fusematte.engine.matting.matter import AREAS, Matter
from fusematte.engine.matting.selection import Selection, check
from fusematte.engine.pixels.color import as_float, enlarge, frame_from_rgb

FAR = 0.58
"""The smallest look's share of the model's default network area."""
SURE = 0.985
"""Mean alpha of a connected part from which on it is a person.  One picture in ten has another."""
SPECK = 0.001
"""Parts of at most this share of the picture do not matter."""
NEAR = 0.12
"""How far people reach beyond where an earlier look found them, as a share of the picture's shorter
side.  Without the limit empty rooms are much worse (model card)."""


def matte_picture(
    picture: NDArray[np.uint8], matter: Matter, selection: Selection = ()
) -> NDArray[np.uint8]:
    """The alpha [H, W], uint8, of a still RGB picture [H, W, 3], uint8.

    selection: what to keep of it; without, everybody.

    Raises:
        UsageError: a prompt lies outside the picture.
    """
    return still_alpha(frame_from_rgb(picture), matter, WHOLE, selection)


def still_alpha(
    frame: Frame, matter: Matter, mask: Mask, selection: Selection
) -> NDArray[np.uint8]:
    """As ``matte_picture``, of a frame of 8 bits, with edits."""
    return np.asarray(edited_alpha(frame, matte_still(frame, matter, selection), mask), np.uint8)


def matte_still(frame: Frame, matter: Matter, selection: Selection) -> Matte:
    """The matte of a single frame, of the network's alphas at several sizes, as far as the model
    accepts them: the default, that of high quality, and where a part may be a thing ``FAR`` of the
    default.

    The smallest tells people from things best, the largest has the best edges.  So each look
    refines people whom a smaller one has found; elsewhere the smaller alpha counts.
    """
    selection = check(selection, displayed_size(frame))
    matte = _look(frame, matter, selection)
    far = None if _is_sure(matte.alpha) else _other_look(frame, matter, selection, FAR)
    if far is not None:
        matte = replace(matte, alpha=_refined(far.alpha, matte.alpha, share=1.0))
    closer = _other_look(frame, matter, selection, AREAS["high"])
    if closer is not None:
        matte = replace(closer, alpha=_refined(matte.alpha, closer.alpha, share=0.5))
    return matte


def _look(frame: Frame, matter: Matter, selection: Selection) -> Matte:
    """The matte at the Matter's scale."""
    matter.reset()
    matter.choose(selection)
    return matter(frame)


def _other_look(frame: Frame, matter: Matter, selection: Selection, area: float) -> Matte | None:
    """The matte at a multiple of that scale; None if the model has no such size."""
    usual = matter.size_for(frame)
    with matter.at_scale(matter.scale * area):
        size = matter.size_for(frame)
        if size == usual or not matter.bundle.takes(*size):
            return None
        return _look(frame, matter, selection)


def _is_sure(alpha: Map) -> bool:
    """Whether every part of it is a person."""
    _, labels, boxes, _ = cv2.connectedComponentsWithStats((alpha > 0.5).astype(np.uint8))
    areas = boxes[1:, cv2.CC_STAT_AREA]
    means = np.bincount(labels.ravel(), alpha.ravel(), minlength=len(boxes))[1:] / areas
    return not np.any((means < SURE) & (areas > SPECK * alpha.size))


def _refined(alpha: Map, closer: Map, *, share: float) -> Map:
    """The alpha of two looks: near people a mix with this share of the closer one, elsewhere the
    smaller one."""
    alpha = enlarge(alpha, *closer.shape)
    mix = cv2.addWeighted(alpha, 1 - share, closer, share, 0)
    side = 2 * round(NEAR * min(alpha.shape)) + 1
    near = cv2.dilate((alpha > 0.5).astype(np.uint8), np.ones((side, side), np.uint8))
    return as_float(np.where(near, mix, np.minimum(alpha, closer)))
