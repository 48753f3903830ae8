"""Mask controls as in video editors: grow, shrink, feather, threshold, invert."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from fusematte.cpp_ext import Guided
from fusematte.engine.errors import check_range
from fusematte.engine.frame import Frame, Matte, Plane
from fusematte.engine.matting.refine import coefficients, refine
from fusematte.engine.pixels.color import as_float

REACH = 100
"""Largest number of pixels to grow, shrink or feather by."""


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Edits of the alpha at full resolution, applied in this order.

    min_alpha: alpha values below it become 0; 0 to 1.
    grow: pixels by which the matte grows; negative values shrink it.
    feather: sigma in pixels of a Gaussian that softens the edges.
    invert: keep the background and remove the people.

    Raises:
        UsageError: a value is out of range.
    """

    invert: bool = False
    grow: int = 0
    feather: float = 0.0
    min_alpha: float = 0.0

    def __post_init__(self) -> None:
        check_range("grow", self.grow, -REACH, REACH, " pixels")
        check_range("feather", self.feather, 0, REACH, " pixels")
        check_range("min_alpha", self.min_alpha, 0, 1)

    def edit(self, alpha: Plane, peak: int) -> Plane:
        """An edited copy of an alpha plane [H, W], uint8 or uint16, 0 to ``peak``."""
        edited = np.where(alpha < self.min_alpha * peak, alpha.dtype.type(0), alpha)
        if self.grow:
            sides = 2 * abs(self.grow) + 1, 2 * abs(self.grow) + 1
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, sides)
            change = cv2.dilate if self.grow > 0 else cv2.erode
            edited = np.asarray(change(edited, disc), alpha.dtype)
        if self.feather:
            soft = cv2.GaussianBlur(edited, (0, 0), self.feather, borderType=cv2.BORDER_REPLICATE)
            edited = np.asarray(soft, alpha.dtype)
        return np.asarray(peak - edited, alpha.dtype) if self.invert else edited


WHOLE = Mask()
"""No edits."""


def edited_alpha(frame: Frame, matte: Matte, mask: Mask, threads: int = 1) -> Plane:
    """The refined and edited alpha: [H, W], 0 to the frame's peak."""
    alpha = refine(frame, matte, threads)
    return alpha if mask == WHOLE else mask.edit(alpha, frame.format.peak)


def edited_matte(frame: Frame, matte: Matte, mask: Mask, threads: int = 1) -> tuple[Matte, Guided]:
    """The edited matte, and its coefficients for ``cpp_ext.composite``.

    Edits work at full resolution, so the coefficients of an edited matte have the frame's size:
    8 bytes a pixel while the frame is composited.
    """
    if mask == WHOLE:
        return matte, coefficients(matte, threads)
    alpha = as_float(edited_alpha(frame, matte, mask, threads)) / np.float32(frame.format.peak)
    small = cv2.resize(alpha, matte.alpha.shape[::-1], interpolation=cv2.INTER_AREA)
    return replace(matte, alpha=as_float(small)), Guided(np.zeros_like(alpha), alpha)
