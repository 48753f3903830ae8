"""Guided-filter refinement: upsamples the network's alpha to the frame's resolution.

The guided filter (He, Sun, Tang, TPAMI 2013) models alpha as slope * luma + offset in every window
and averages both over the windows of a pixel.  We keep the averaged slope but not the averaged
offset: with offset = alpha - slope * luma the network's alpha is unchanged at its own resolution,
and the frame's luma only adds finer detail.  Averaging the offset as well would blur alpha by the
window; benchmarks/bench_refine.py has the figures.

The guide is the luma alone.  A Y'CbCr guide lowers the error of a perfect alpha by an eighth, that
of the network's alpha not at all, and takes more than twice the time (benchmarks/bench_guide.py).
"""

from __future__ import annotations

import numpy as np

from fusematte.cpp_ext import Guided, composite, guided_coefficients
from fusematte.engine.frame import Frame, Matte, Plane

RADIUS = 1
EPSILON = 1e-3
"""The guided filter's window and regulariser, for a guide in 0..1 at the network's resolution."""


def coefficients(matte: Matte, threads: int = 1) -> Guided:
    """Slope and offset, [h, w] each, at the network's resolution, for ``cpp_ext.composite``."""
    guide = matte.color[0]
    slope, _ = guided_coefficients(guide, matte.alpha, RADIUS, EPSILON, threads=threads)
    return Guided(slope, matte.alpha - slope * guide)


def refine(frame: Frame, matte: Matte, threads: int = 1) -> Plane:
    """The refined alpha at the frame's size, for a frame and the matte made from it.

    Shape:
        output: [H, W], 0 (background) to 255 (person), uint8; to 1023, uint16, for 10-bit frames.
    """
    luma = frame.planes[0]
    alpha = np.empty(luma.shape, frame.format.dtype)
    slope, offset = coefficients(matte, threads)
    # The kernel applies the coefficients while it composites; only its alpha is used here, so the
    # chroma is one row that repeats, in the layout with the least of it.
    rows, columns = (-(-side // 2) for side in luma.shape)
    chroma = np.broadcast_to(np.zeros(columns, luma.dtype), (rows, columns))
    composite(
        (luma, chroma, chroma), slope, offset, (0, 0, 0),
        levels=frame.levels, alpha=alpha, threads=threads,
    )  # fmt: skip
    return alpha
