"""Guided-filter refinement: the network's alpha brought to the frame's own resolution."""

from __future__ import annotations

from fusematte.engine.frame import Frame, Matte, Plane
from fusematte.engine.pixels import (
    Coefficients,
    Map,
    apply_coefficients,
    guided_coefficients,
    quantise_alpha,
)

RADIUS = 2
EPSILON = 1e-4
"""The guided filter's window and regulariser, for a guide in 0..1 at the network's resolution."""


def coefficients(matte: Matte) -> Coefficients:
    """The guided filter's coefficients, at the network's resolution."""
    return guided_coefficients(matte.guide, matte.alpha, RADIUS, EPSILON)


def refine_float(frame: Frame, matte: Matte) -> Map:
    """The refined alpha at the frame's size: [H, W], float32, 0..1."""
    return apply_coefficients(coefficients(matte), frame)


def refine(frame: Frame, matte: Matte) -> Plane:
    """The refined alpha at the frame's size, for a frame and the matte made from it.

    Shape:
        output: [H, W], 0 (background) to 255 (people), uint8; to 1023, uint16, for 10-bit frames.
    """
    return quantise_alpha(refine_float(frame, matte), frame.format.bits)
