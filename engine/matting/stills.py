"""Matting of still pictures."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Frame, Matte, displayed_size
from fusematte.engine.matting.mask import WHOLE, Mask, edited_alpha
from fusematte.engine.matting.matter import AREAS, Matter
from fusematte.engine.matting.selection import Selection, check
from fusematte.engine.pixels.color import as_float, enlarge, frame_from_rgb


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
    """The matte of a single frame: the mean of the network's alphas at its default size and at that
    of high quality, where the model accepts it."""
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
            mean = cv2.addWeighted(enlarge(matte.alpha, *size), 0.5, closer.alpha, 0.5, 0)
            matte = replace(closer, alpha=as_float(mean))
    return matte
