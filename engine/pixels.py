"""The pixel work around the network, in NumPy and OpenCV: planes in, planes out.

The full-resolution picture stays in its own YUV planes; what is float is either at the network's
resolution or one plane at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Frame, PixelFormat, Plane, YuvMatrix

Map = NDArray[np.float32]
FOREGROUND_RADII = (45, 3)
"""Box radii of the two passes of blur fusion, at the network's resolution."""


class Coefficients(NamedTuple):
    """alpha = slope * luma + offset, per pixel; both [h, w] at the network's resolution."""

    slope: Map
    offset: Map


def as_float(picture: Plane) -> Map:
    """The same array, typed as what it is: OpenCV's stubs know only "some array"."""
    return np.asarray(picture, np.float32)


def average_planes(frame: Frame, height: int, width: int) -> tuple[Map, Map]:
    """Area-averages a frame to height x width.

    Shape:
        output: luma [height, width], 0..1; Cb and Cr [2, height, width], -0.5..0.5.
    """
    black, luma_span, neutral, chroma_span = frame.levels
    y, u, v = (
        as_float(cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA))
        for plane in frame.planes
    )
    luma = np.clip((y - black) / luma_span, 0, 1)
    return as_float(luma), as_float((np.stack([u, v]) - neutral) / chroma_span)


def to_rgb(luma: Map, chroma: Map, matrix: YuvMatrix) -> Map:
    """YCbCr to RGB (ITU-T H.273, equations 39 to 41).

    Shape:
        luma: [h, w], 0..1; chroma: [2, h, w], -0.5..0.5; output: [3, h, w], 0..1.
    """
    red = luma + 2 * (1 - matrix.red) * chroma[1]
    blue = luma + 2 * (1 - matrix.blue) * chroma[0]
    green = (luma - matrix.red * red - matrix.blue * blue) / (1 - matrix.red - matrix.blue)
    return as_float(np.clip(np.stack([red, green, blue]), 0, 1))


def guided_coefficients(guide: Map, alpha: Map, radius: int, epsilon: float) -> Coefficients:
    """Coefficients of the guided filter with a gray guide (He, Sun, Tang, PAMI 2013, eq. 5 to 8).

    Computed at low and applied at full resolution, as in the fast guided filter (He, Sun 2015).

    Shape:
        guide, alpha: [h, w], 0..1.
    """

    def mean(x: Map) -> Map:
        size = 2 * radius + 1
        return as_float(cv2.blur(x, (size, size), borderType=cv2.BORDER_REFLECT))

    mean_guide, mean_alpha = mean(guide), mean(alpha)
    variance = mean(guide * guide) - mean_guide * mean_guide
    covariance = mean(guide * alpha) - mean_guide * mean_alpha
    slope = as_float(covariance / (variance + epsilon))
    offset = mean_alpha - slope * mean_guide
    return Coefficients(mean(slope), mean(offset))


def apply_coefficients(coefficients: Coefficients, frame: Frame) -> Map:
    """The refined alpha at the frame's own size.

    Shape:
        output: [H, W], float32, 0..1.
    """
    black, span, _, _ = frame.levels
    slope, offset = (enlarge(part, frame.height, frame.width) for part in coefficients)
    # slope * (y - black) / span + offset, in as few passes over the picture as NumPy allows.
    slope *= 1 / span
    offset -= slope * np.float32(black)
    slope *= frame.planes[0]
    slope += offset
    return np.clip(slope, 0, 1, out=slope)


def enlarge(picture: Map, height: int, width: int) -> Map:
    """Bilinear interpolation of an [h, w] map."""
    return as_float(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR))


def estimate_foreground(color: Map, alpha: Map) -> Map:
    """The people's own colour near their edges: blur fusion (Forte, 2021), two passes.

    Shape:
        color: [3, h, w], any linear colour space; alpha: [h, w]; output: [3, h, w].
    """
    picture, weight = np.ascontiguousarray(color.transpose(1, 2, 0)), alpha[..., None]
    foreground = background = picture
    for radius in FOREGROUND_RADII:
        foreground, background = _blur_fusion(picture, foreground, background, weight, radius)
    return np.ascontiguousarray(foreground.transpose(2, 0, 1))


def _blur_fusion(
    picture: Map, foreground: Map, background: Map, weight: Map, radius: int
) -> tuple[Map, Map]:
    def blur(x: Map) -> Map:
        size = (2 * radius + 1, 2 * radius + 1)
        return as_float(cv2.blur(x, size)).reshape(x.shape)

    share = blur(weight)
    foreground = blur(foreground * weight) / (share + 1e-5)
    background = blur(background * (1 - weight)) / (1 - share + 1e-5)
    residual = picture - weight * foreground - (1 - weight) * background
    return foreground + weight * residual, background


def quantise_alpha(alpha: Map, bits: int = 8) -> Plane:
    """Full-range code values: 0 is transparent, 2^bits - 1 opaque."""
    peak = (1 << bits) - 1
    return (alpha * peak + 0.5).astype(np.uint8 if bits == 8 else np.uint16)


def subsample(alpha: Map, layout: PixelFormat) -> Map:
    """The mean alpha over the luma samples of each chroma sample."""
    if not (layout.x_shift or layout.y_shift):
        return alpha
    height, width = layout.chroma_shape(*alpha.shape)
    return as_float(cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA))


def blend(frame: Frame, alpha: Map, shift: Map, background: tuple[Plane, Plane, Plane]) -> Frame:
    """alpha * (frame + shift) + (1 - alpha) * background, plane by plane (equation 1 of the paper).

    Shape:
        alpha: [H, W], 0..1; shift: [3, h, w], code values, what takes the old background's colour
        out of the edges; background: planes of the frame's layout, or of shape [1, 1] where it
        is one colour.
    """
    peak = (1 << frame.format.bits) - 1
    small = subsample(alpha, frame.format)
    blended = []
    for plane, correction, behind, weight in zip(
        frame.planes, shift, background, (alpha, small, small), strict=True
    ):
        picture = enlarge(correction, *plane.shape)
        picture += plane
        np.clip(picture, 0, peak, out=picture)
        picture -= behind
        picture *= weight
        picture += behind
        picture += 0.5
        blended.append(picture.astype(frame.format.dtype))
    return frame.with_planes((blended[0], blended[1], blended[2]))
