"""Fail closed: the frame that is shown when there is no matte; it contains no camera pixels."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.frame import Frame, Planes

log = logging.getLogger(__name__)

CARD_LUMA, SIGN_LUMA = 0.1, 0.45
"""Luma of the card and of the two bars on it, 0..1."""


def closed_frame(frame: Frame, background: Background) -> Frame:
    """The background alone, in the frame's format and at its time, without any of its pixels.

    Without a background it is transparent.  If the background is made from the camera's picture
    (blur) or fails as well: the still card.
    """
    if not background.shows_camera:
        try:
            shown = frame.with_planes(_background_planes(frame, background))
            if background.content == "rgba":
                return replace(shown, alpha=np.zeros_like(frame.planes[0]))
            return shown
        except Exception as error:
            log.debug("the background failed, so a still card is shown: %s", error)
    return card(frame)


def card(frame: Frame) -> Frame:
    """A still card of the frame's size: dark gray with a pause sign, two bars in the middle."""
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
    pixels = background.render(frame, None)
    if isinstance(pixels, np.ndarray):
        raise TypeError("a background that does not show the camera renders planes or a colour")
    # New planes: the caller keeps the result, the background reuses its own.
    y, u, v = (np.empty_like(plane) for plane in frame.planes)
    y[...], u[...], v[...] = pixels
    return y, u, v
