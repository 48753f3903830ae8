"""Fail closed: what is shown when there is no matte, made without a pixel of the camera."""

from __future__ import annotations

import logging

import numpy as np

from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.frame import Frame, Planes

log = logging.getLogger(__name__)

CARD_LUMA, SIGN_LUMA = 0.1, 0.45
"""Of the card and of the two bars on it, 0..1."""


def closed_frame(frame: Frame, background: Background) -> Frame:
    """The background alone, in the frame's layout and at its time; of the frame's pixels, none.

    Where the background is made from the camera's picture (blur), or fails itself, it is the card.
    """
    if not background.shows_camera:
        try:
            return frame.with_planes(_background_planes(frame, background))
        except Exception as error:
            log.debug("a still card takes the background's place: %s", error)
    return card(frame)


def card(frame: Frame) -> Frame:
    """A still card of the frame's size: dark gray, two bars in the middle, as for a pause."""
    height, width = frame.planes[0].shape
    black, span, neutral, _ = frame.levels
    luma = np.full((height, width), black + CARD_LUMA * span, frame.format.dtype)
    unit = max(1, min(height, width) // 32)
    top, middle = height // 2 - 3 * unit, width // 2
    for left in (middle - 3 * unit, middle + unit):
        luma[max(0, top) : top + 6 * unit, max(0, left) : left + 2 * unit] = (
            black + SIGN_LUMA * span
        )
    blue, red = (np.full(plane.shape, neutral, plane.dtype) for plane in frame.planes[1:])
    return frame.with_planes((luma, blue, red))


def _background_planes(frame: Frame, background: Background) -> Planes:
    behind = background.behind(frame, None)
    if isinstance(behind, np.ndarray):
        raise TypeError("a background that is not made from the frame gives planes or a colour")
    # New planes: the result is the caller's to keep, the background's own are not.
    y, u, v = (np.empty_like(plane) for plane in frame.planes)
    y[...], u[...], v[...] = behind
    return y, u, v
