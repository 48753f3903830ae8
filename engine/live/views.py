"""Views of a result: the composite, the alpha, or one of the network's maps as a picture."""

from __future__ import annotations

import numpy as np

from fusematte.engine.errors import UsageError
from fusematte.engine.frame import Frame
from fusematte.engine.live.session import Result
from fusematte.engine.pixels.color import enlarge

VIEWS = ("composite", "alpha", "foreground", "background", "beta")
"""The composite, the refined alpha, and the network's F, B and beta."""


def view_of(result: Result, view: str) -> Frame:
    """A view of a result in the size and format of its source; maps in gray, 0 black, 1 white.

    Without a matte the maps are black.

    Raises:
        UsageError: there is no such view.
    """
    if view not in VIEWS:
        raise UsageError(
            f"there is no view {view!r}", remedy=f"use one of {', '.join(VIEWS)}", option="view"
        )
    if view == "composite":
        return result.composite
    frame = result.source
    black, luma_span, neutral, _ = frame.levels
    if view == "alpha" or result.matte is None:
        shown = result.alpha() / np.float32((1 << frame.format.bits) - 1)
    else:
        shown = np.clip(enlarge(getattr(result.matte, view), frame.height, frame.width), 0, 1)
    luma = (shown * luma_span + (black + 0.5)).astype(frame.format.dtype)
    gray = np.full(frame.planes[1].shape, neutral, frame.format.dtype)
    return frame.with_planes((luma, gray, gray))
