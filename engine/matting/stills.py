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

NEAR = 0.12
"""How far people reach beyond where the first look found them, as a share of the picture's shorter
side.  With the mean of both looks everywhere empty rooms are much worse (model card)."""


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
    """The matte of a single frame: of the network's alphas at its default size and, where the model
    accepts it, at that of high quality.

    Near people it is their mean.  Elsewhere it is the smaller one: a closer look takes more things
    for people.
    """
    selection = check(selection, displayed_size(frame))
    matter.reset()
    matter.choose(selection)
    matte = matter(frame)
    with matter.at_scale(matter.scale * AREAS["high"]):
        size = matter.size_for(frame)
        if size != matte.alpha.shape and matter.bundle.takes(*size):
            matter.reset()
            matter.choose(selection)
            closer = matter(frame)
            matte = replace(closer, alpha=_both(enlarge(matte.alpha, *size), closer.alpha))
    return matte


def _both(first: Map, closer: Map) -> Map:
    """The alpha of two looks."""
    mean = cv2.addWeighted(first, 0.5, closer, 0.5, 0)
    side = 2 * round(NEAR * min(first.shape)) + 1
    near = cv2.dilate((first > 0.5).astype(np.uint8), np.ones((side, side), np.uint8))
    return as_float(np.where(near, mean, np.minimum(first, closer)))
