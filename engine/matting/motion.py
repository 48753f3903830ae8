"""Motion between two frames: optical flow, and planes moved along it.

The flow is that of Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from fusematte.cpp_ext import move
from fusematte.engine.frame import Map, Plane
from fusematte.engine.pixels.color import as_float

AREA = 256 * 144
"""Approximate area in pixels of the pictures in which motion is searched; at most the network's."""


def search_size(height: int, width: int) -> tuple[int, int]:
    """Width and height at which motion is searched in a picture of this size."""
    step = max(1, round(math.sqrt(height * width / AREA)))
    return max(1, width // step), max(1, height // step)


class Motion(NamedTuple):
    """Where the pixels of one frame are in another frame.

    flow: [h, w, 2], how far to the right and down, in pixels of the pictures that were searched.
    """

    flow: Map

    def __call__(self, planes: Map) -> Map:
        """Planes of the other frame, of any size, moved to where they are now.

        Shape:
            planes: [h, w] or [h, w, channels]; output: [h, w] or [channels, h, w].
        """
        return move(planes, self.flow)

    @property
    def onward(self) -> Motion:
        """The motion to a third frame, if it goes on as it came from the other one."""
        return Motion(-self.flow)


def search_motion(now: Plane, other: Plane) -> Motion:
    """Where the pixels of one frame are in another; of both the luma, [h, w], uint8."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    # At the preset's scale of 2 edges are off by a pixel, and small things drift.
    search.setFinestScale(1)
    # Without a start, OpenCV would begin with whatever is in its new picture.
    start = np.zeros((*now.shape, 2), np.float32)
    return Motion(as_float(search.calc(now, other, start)))
