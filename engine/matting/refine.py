"""Guided-filter refinement: from the network's alpha to one at the frame's resolution.

The guided filter (He, Sun, Tang, TPAMI 2013) models alpha as linear in a guide in every window.  It
runs twice:

1. At the network's resolution with Y'CbCr as guide, its model computed at half of that.  The
   network's edges are softer than the picture's and off by a pixel; the filter draws them to where
   the colour changes.  Solid areas stay solid.
2. From there to the frame's resolution with the luma as guide, slope * luma + offset.  The slope is
   averaged over windows, but not the offset: with offset = alpha - slope * luma the first step's
   alpha is unchanged at its own resolution, and the frame's luma only adds finer detail.
   Averaging the offset as well would blur alpha by the window.

Solid windows, most of a matte, need neither.

benchmarks/results/true-alpha-parts.json has the figures without either.
"""

from __future__ import annotations

import numpy as np

from fusematte.cpp_ext import Guided, composite, guided_alpha, guided_coefficients
from fusematte.engine.frame import Frame, Map, Matte, Plane

COLOR_RADIUS = 3
COLOR_EPSILON = 1e-5
"""Window and regulariser of the first filter, at half the network's resolution."""
CERTAIN = 0.05
"""Alphas nearer to 0 or 1 than this keep more of their value in the first filter."""
RADIUS = 1
EPSILON = 1e-3
"""Those of the second, at the network's resolution.  Guides are in 0..1."""


def at_edges(matte: Matte, threads: int = 1) -> Map:
    """The network's alpha, drawn to the picture's edges: [h, w], 0..1."""
    radius = min(COLOR_RADIUS, *(side // 2 for side in matte.alpha.shape))
    return guided_alpha(
        matte.color, matte.alpha, radius, COLOR_EPSILON, certain=CERTAIN, threads=threads
    )


def coefficients(matte: Matte, threads: int = 1) -> Guided:
    """Slope and offset, [h, w] each, at the network's resolution, for ``cpp_ext.composite``."""
    alpha = at_edges(matte, threads)
    return guided_coefficients(matte.color[0], alpha, RADIUS, EPSILON, threads=threads)


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
