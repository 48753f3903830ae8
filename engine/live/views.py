"""Views of a result: the composite, the alpha, or one of the network's maps as a picture."""

from __future__ import annotations

import numpy as np

from fusematte.engine.errors import UsageError
from fusematte.engine.frame import Frame
from fusematte.engine.live.session import Result
from fusematte.engine.pixels.color import enlarge, gray_frame

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
    if view == "alpha" or result.matte is None:
        return gray_frame(frame, result.alpha())
    shown = np.clip(enlarge(getattr(result.matte, view), frame.height, frame.width), 0, 1)
    codes = shown * frame.format.peak + np.float32(0.5)
    return gray_frame(frame, codes.astype(frame.format.dtype))
