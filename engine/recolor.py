"""Between colour representations: RGB to planes, one YCbCr matrix or range to another."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.backends import Map
from fusematte.engine.frame import PIXEL_FORMATS, Color, Frame, Plane, Planes, YuvMatrix

RGB_FRAME_COLOR = Color(matrix=1, primaries=1, transfer=13, full_range=True)
"""BT.709 YCbCr, full range, of sRGB pictures."""


def as_float(picture: Plane) -> Map:
    """A copy in float32."""
    return np.asarray(picture, np.float32)


def enlarge(picture: Map, height: int, width: int) -> Map:
    """Bilinear interpolation of an [h, w] map."""
    return as_float(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR))


def to_rgb(luma: Map, chroma: Map, matrix: YuvMatrix) -> Map:
    """YCbCr to RGB (ITU-T H.273, equations 39 to 41).

    Shape:
        luma: [h, w], 0..1; chroma: [2, h, w], -0.5..0.5; output: [3, h, w], 0..1.
    """
    red = luma + 2 * (1 - matrix.red) * chroma[1]
    blue = luma + 2 * (1 - matrix.blue) * chroma[0]
    green = (luma - matrix.red * red - matrix.blue * blue) / (1 - matrix.red - matrix.blue)
    return as_float(np.clip(np.stack([red, green, blue]), 0, 1))


def to_ycbcr(rgb: Map, matrix: YuvMatrix) -> tuple[Map, Map]:
    """RGB to YCbCr (ITU-T H.273, equations 39 to 41).

    Shape:
        rgb: [3, h, w], 0..1; output: luma [h, w], 0..1; chroma [2, h, w], -0.5..0.5.
    """
    red, green, blue = rgb
    luma = matrix.red * red + (1 - matrix.red - matrix.blue) * green + matrix.blue * blue
    chroma = [(blue - luma) / (2 * (1 - matrix.blue)), (red - luma) / (2 * (1 - matrix.red))]
    return luma, np.stack(chroma)


def frame_from_rgb(rgb: NDArray[np.uint8]) -> Frame:
    """A still RGB picture [H, W, 3] as a frame: 4:4:4, 8 bits, full range, BT.709."""
    blank = np.empty((1, 1), np.uint8)
    frame = Frame(
        planes=(blank, blank, blank), format=PIXEL_FORMATS["yuv444p"], color=RGB_FRAME_COLOR
    )
    luma, chroma = to_ycbcr(as_float(rgb.transpose(2, 0, 1) / 255), frame.matrix)
    return frame.with_planes(_quantise(luma, chroma, frame))


def convert_planes(planes: Planes, source: Frame, target: Frame) -> Planes:
    """Planes in the colour representation of ``source``, in that of ``target``; sizes stay."""
    if (source.matrix, source.levels) == (target.matrix, target.levels):
        return planes
    black, luma_span, neutral, chroma_span = source.levels
    luma = (as_float(planes[0]) - black) / luma_span
    chroma = (np.stack([as_float(plane) for plane in planes[1:]]) - neutral) / chroma_span
    if source.matrix != target.matrix:
        whole = np.stack([enlarge(plane, *luma.shape) for plane in chroma])
        luma, whole = to_ycbcr(to_rgb(luma, whole, source.matrix), target.matrix)
        chroma = np.stack(
            [
                cv2.resize(plane, chroma.shape[:0:-1], interpolation=cv2.INTER_AREA)
                for plane in whole
            ]
        )
    return _quantise(luma, chroma, target)


def _quantise(luma: Map, chroma: Map, target: Frame) -> Planes:
    black, luma_span, neutral, chroma_span = target.levels
    peak, dtype = (1 << target.format.bits) - 1, target.format.dtype
    y = np.clip(luma * luma_span + (black + 0.5), 0, peak).astype(dtype)
    u, v = np.clip(chroma * chroma_span + (neutral + 0.5), 0, peak).astype(dtype)
    return y, u, v
