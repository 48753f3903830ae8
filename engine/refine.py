"""Guided-filter refinement: the network's alpha brought to the frame's own resolution."""

from __future__ import annotations

import numpy as np

from fusematte.cpp_ext import Guided, composite, guided_coefficients
from fusematte.engine.frame import Frame, Matte, Plane

RADIUS = 2
EPSILON = 1e-4
"""The guided filter's window and regulariser, for a guide in 0..1 at the network's resolution."""


def coefficients(matte: Matte) -> Guided:
    """The guided filter's coefficients, at the network's resolution (see ``fusematte.cpp_ext``)."""
    return guided_coefficients(matte.color[0], matte.alpha, RADIUS, EPSILON)


def refine(frame: Frame, matte: Matte) -> Plane:
    """The refined alpha at the frame's size, for a frame and the matte made from it.

    Shape:
        output: [H, W], 0 (background) to 255 (people), uint8; to 1023, uint16, for 10-bit frames.
    """
    alpha = np.empty(frame.planes[0].shape, frame.format.dtype)
    # The kernel applies the coefficients while it composites: over luma alone that is all it does.
    slope, offset = coefficients(matte)
    composite(frame.planes, slope, offset, (0, 0, 0), levels=frame.levels, alpha=alpha)
    return alpha
