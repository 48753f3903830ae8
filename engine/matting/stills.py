"""The matte of a picture that follows no other."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Frame, Matte
from fusematte.engine.matting.mask import WHOLE, Mask, edited_alpha
from fusematte.engine.matting.matter import Matter
from fusematte.engine.pixels.color import as_float, enlarge, frame_from_rgb

CLOSER = 1.6
"""Of the network's own area: a still picture has the time to be seen twice, as a video's frames
are and then in more detail."""


def matte_picture(
    picture: NDArray[np.uint8], matter: Matter, mask: Mask = WHOLE
) -> NDArray[np.uint8]:
    """The alpha [H, W], uint8, of an RGB picture [H, W, 3] that follows no other."""
    frame = frame_from_rgb(picture)
    return np.asarray(edited_alpha(frame, matte_still(frame, matter), mask), np.uint8)


def matte_still(frame: Frame, matter: Matter) -> Matte:
    """The matte of a frame that follows no other: the mean of what the network says at its own
    size and at a larger one, unless an engine has no larger one."""
    matter.reset()
    matte = matter(frame)
    with matter.at_scale(matter.scale * CLOSER):
        size = matter.size_for(frame)
        if size != matte.alpha.shape and matter.bundle.takes(*size):
            matter.reset()
            closer = matter(frame)
            mean = cv2.addWeighted(enlarge(matte.alpha, *size), 0.5, closer.alpha, 0.5, 0)
            matte = replace(closer, alpha=as_float(mean))
    return matte
