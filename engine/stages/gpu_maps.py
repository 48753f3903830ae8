"""The float maps between the kernels of a frame on the GPU: which there are, and how they lie in
memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np

from fusematte.cpp_ext import cuda
from fusematte.engine.backends import Maps
from fusematte.engine.compositing.backgrounds import FINEST_BLUR, BlurBackground
from fusematte.engine.frame import Map
from fusematte.engine.matting.continuity import COARSE

Shapes: TypeAlias = dict[str, cuda.Shape]
"""Maps by name: (channels, height, width)."""

ALIGNMENT = 256
"""Alignment in bytes of each map in the block: that of the CUDA allocator."""


@dataclass(frozen=True)
class MapLayout:
    """Float32 maps in one block of memory, by name: (channels, height, width)."""

    maps: Mapping[str, cuda.Shape]

    @property
    def offsets(self) -> dict[str, int]:
        """Byte offset of each map."""
        offsets, end = {}, 0
        for name, shape in self.maps.items():
            offsets[name] = end
            end += -(-4 * int(np.prod(shape)) // ALIGNMENT) * ALIGNMENT
        return offsets | {"": end}

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return self.offsets[""]


def gaussian(sigma: float) -> Map:
    """The weights of OpenCV's Gaussian for float pictures."""
    count = round(8 * sigma + 1) | 1
    return np.asarray(cv2.getGaussianKernel(count, sigma, cv2.CV_32F)[:, 0])


class Blur(NamedTuple):
    """Blur of a background: its (height, width) and the weights of its 1-D Gaussian."""

    size: tuple[int, int]
    taps: Map


def blur_of(background: BlurBackground, size: tuple[int, int]) -> Blur:
    """The same blur as ``BlurBackground.render`` makes with OpenCV, for a network size."""
    height, width = size
    sigma = background.sigma * min(size) / 720
    factor = max(1, int(sigma / FINEST_BLUR))
    return Blur((max(1, height // factor), max(1, width // factor)), gaussian(sigma / factor))


def frame_maps(size: tuple[int, int]) -> Shapes:
    """The maps of every frame, for the network's size in the frame's orientation."""
    whole, half, (columns, rows) = (1, *size), (size[0] // 2, size[1] // 2), COARSE
    maps: Shapes = dict.fromkeys(("image", "color"), (3, *size))
    maps |= dict.fromkeys((*Maps._fields, "previous", "guided", "slope", "offset"), whole)
    maps |= dict.fromkeys(("half_color", "foreground_color", "old_color", "shift"), (3, *half))
    maps |= {"half_alpha": (1, *half), "coarse_rgb": (3, rows, columns)}
    return maps | {"coarse": (3, rows, columns), "flat": (3, 1, 1)}


def displayed_maps(size: tuple[int, int]) -> Shapes:
    """The network's tensors for a frame that is turned, as it is displayed."""
    maps: Shapes = dict.fromkeys(("image", "guide"), (3, *size))
    maps |= dict.fromkeys((*Maps._fields, "guided"), (1, *size))
    return {f"displayed_{name}": shape for name, shape in maps.items()}


def blur_maps(blur: Blur) -> Shapes:
    """Those of a blurred background."""
    color = (3, *blur.size)
    return {"background_color": color, "background_alpha": (1, *blur.size), "blurred": color}


def wrap_maps(half: tuple[int, int]) -> Shapes:
    """Those of light wrap, at half the network's size."""
    return dict.fromkeys(("light_rgb", "light", "lit_color", "lit_shift"), (3, *half))
