"""Mask controls: what editors do to a matte before they use it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from fusematte.cpp_ext import Guided
from fusematte.engine.errors import UsageError
from fusematte.engine.frame import Frame, Matte, Plane
from fusematte.engine.matting.refine import coefficients, refine
from fusematte.engine.pixels.color import as_float

REACH = 100
"""The most pixels to grow, shrink or feather by."""


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Edits of the alpha at the frame's own size, done in this order.

    min_alpha: alphas below it become 0; 0 to 1.
    grow: pixels by which what is opaque grows; below 0 it shrinks.
    feather: pixels over which its edges are softened: the sigma of a Gaussian.
    invert: keep the background and take the people away.

    Raises:
        UsageError: a number out of its range.
    """

    invert: bool = False
    grow: int = 0
    feather: float = 0.0
    min_alpha: float = 0.0

    def __post_init__(self) -> None:
        if not -REACH <= self.grow <= REACH:
            raise UsageError(f"grow must be {-REACH} to {REACH} pixels, not {self.grow}")
        if not 0 <= self.feather <= REACH:
            raise UsageError(f"feather must be 0 to {REACH} pixels, not {self.feather:g}")
        if not 0 <= self.min_alpha <= 1:
            raise UsageError(f"min alpha must be 0 to 1, not {self.min_alpha:g}")

    def edit(self, alpha: Plane, peak: int) -> Plane:
        """The edited copy of an alpha plane [H, W], uint8 or uint16 that goes up to ``peak``."""
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
"""The matte as it is."""


def edited_alpha(frame: Frame, matte: Matte, mask: Mask) -> Plane:
    """``refine``, then the edits: [H, W], 0 to the frame's peak."""
    alpha = refine(frame, matte)
    return alpha if mask == WHOLE else mask.edit(alpha, frame.format.peak)


def edited_matte(frame: Frame, matte: Matte, mask: Mask, threads: int = 1) -> tuple[Matte, Guided]:
    """A matte with the edits, and its coefficients for ``cpp_ext.composite``.

    Edits are in the frame's pixels, so their coefficients have the frame's size, unlike others:
    4 bytes a pixel twice, for as long as the frame is composited.
    """
    if mask == WHOLE:
        return matte, coefficients(matte, threads)
    alpha = as_float(edited_alpha(frame, matte, mask)) / np.float32(frame.format.peak)
    small = cv2.resize(alpha, matte.alpha.shape[::-1], interpolation=cv2.INTER_AREA)
    return replace(matte, alpha=as_float(small)), Guided(np.zeros_like(alpha), alpha)
