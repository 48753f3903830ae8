"""Motion between two frames: optical flow, and planes moved along it.

The flow is that of Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from fusematte.engine.frame import Map, Plane
from fusematte.engine.pixels.color import as_float

AREA = 256 * 144
"""Approximate area in pixels of the pictures in which motion is searched; at most the network's."""


def search_size(height: int, width: int) -> tuple[int, int]:
    """Width and height at which motion is searched in a picture of this size."""
    step = max(1, round(math.sqrt(height * width / AREA)))
    return max(1, width // step), max(1, height // step)


class Motion:
    """Where the pixels of one frame are in another frame.

    flow: [h, w, 2], horizontal and vertical, in pixels of the lumas.

    Args:
        now, other: their luma, [h, w], uint8.
        shape: height and width of the planes to be moved; by default the lumas'.
    """

    def __init__(self, now: Plane, other: Plane, shape: tuple[int, int] | None = None) -> None:
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        # At the preset's scale of 2 edges are off by a pixel, and small things drift.
        search.setFinestScale(1)
        # Without a start, OpenCV would begin with whatever is in its new picture.
        start = np.zeros((*now.shape, 2), np.float32)
        self.flow = as_float(search.calc(now, other, start))
        self._at = _places(*now.shape) + self.flow if shape is None else self._enlarged(*shape)

    def _enlarged(self, height: int, width: int) -> Map:
        rows, columns = self.flow.shape[:2]
        flow = self.flow * np.array([width / columns, height / rows], np.float32)
        at = as_float(cv2.resize(flow, (width, height)))
        at += _places(height, width)
        return at

    def __call__(self, plane: Map) -> Map:
        """A plane of the other frame, [h, w] or [h, w, channels], moved to where it is now."""
        edge = cv2.BORDER_REPLICATE
        return as_float(cv2.remap(plane, self._at, None, cv2.INTER_LINEAR, borderMode=edge))  # type: ignore[call-overload]


@lru_cache(maxsize=8)
def _places(height: int, width: int) -> Map:
    """The place of each pixel: [height, width, 2]."""
    places = np.dstack(np.meshgrid(*map(np.arange, (width, height)))).astype(np.float32)
    places.flags.writeable = False
    return places
