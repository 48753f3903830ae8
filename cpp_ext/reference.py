"""The kernels in plain float64 NumPy: what every other implementation is tested against.

Planes hold code values; ``levels`` are (black, luma span, neutral chroma, chroma span) in code
values; ``matrix`` is (kr, kb), the luma weights of red and blue (ITU-T H.273, clause 8.3).
Semi-planar pictures (NV12, P010) are split into three planes first, see ``split``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusematte.cpp_ext import SOLID

Array = NDArray[np.float64]
Plane = NDArray[Any]
Levels = tuple[float, float, float, float]

FUSION_EPSILON = 1e-5


def split(planes: Sequence[Plane]) -> list[Plane]:
    """Planes of any supported layout -> Y, U, V with values in the low bits."""
    if len(planes) == 3:
        return list(planes)
    shift = 0 if planes[0].dtype == np.uint8 else 6
    return [plane >> shift for plane in (planes[0], planes[1][..., 0], planes[1][..., 1])]


def area_weights(source: int, target: int) -> Array:
    """[target, source]: the share of each source cell in each target cell; rows sum to 1.

    Both grids cover the same extent; a target cell wider than a source cell averages, a narrower
    one takes the cell (or the two) that it lies in.
    """
    edges = np.arange(target + 1) * source / target
    cells = np.arange(source)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.asarray(np.maximum(overlap, 0) * target / source)


def bilinear_weights(source: int, target: int) -> Array:
    """[target, source]: linear interpolation between sample centres, clamped at the edges."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(position[:, None] - np.arange(source))))


def resample(weights: Callable[[int, int], Array], plane: Plane, height: int, width: int) -> Array:
    """The plane at height x width, by ``area_weights`` or ``bilinear_weights``."""
    rows, columns = plane.shape
    return np.asarray(weights(rows, height) @ plane.astype(float) @ weights(columns, width).T)


def rgb_from_ycbcr(ycbcr: Array, matrix: tuple[float, float]) -> Array:
    """[3, h, w] Y'CbCr (0..1, -0.5..0.5) -> R'G'B', clipped to 0..1."""
    kr, kb = matrix
    y, cb, cr = ycbcr
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.asarray(np.clip(np.stack([red, green, blue]), 0, 1))


def resize_to_tensor(
    planes: Sequence[Plane],
    height: int,
    width: int,
    matrix: tuple[float, float],
    levels: Levels,
) -> tuple[Array, Array]:
    """Area-averaged RGB [3, height, width] in 0..1 and the Y'CbCr it was computed from."""
    black, luma_span, neutral, chroma_span = levels
    y, cb, cr = (resample(area_weights, plane, height, width) for plane in split(planes))
    ycbcr = np.stack(
        [(y - black) / luma_span, (cb - neutral) / chroma_span, (cr - neutral) / chroma_span]
    )
    return rgb_from_ycbcr(ycbcr, matrix), ycbcr


def box_mean(values: NDArray[Any], radius: int) -> Array:
    """The mean over the (2 radius + 1)^2 window, clipped at the border; the last two axes."""
    height, width = values.shape[-2:]
    result = np.empty(values.shape)
    for y in range(height):
        for x in range(width):
            window = values[
                ...,
                max(0, y - radius) : y + radius + 1,
                max(0, x - radius) : x + radius + 1,
            ]
            result[..., y, x] = window.mean(axis=(-2, -1))
    return result


def guided_coefficients(
    guide: NDArray[np.float32], alpha: NDArray[np.float32], radius: int, epsilon: float
) -> tuple[Array, Array]:
    """He, Sun, Tang, "Guided Image Filtering", equations 5 and 8; windows that are solid have no
    slope, and the offset keeps alpha as it is."""
    image, target = guide.astype(np.float64), alpha.astype(np.float64)
    mean = box_mean(image, radius)
    covariance = box_mean(image * target, radius) - mean * box_mean(target, radius)
    variance = box_mean(image * image, radius) - mean * mean
    mixed = (box_mean(target > SOLID, radius) > 0) & (box_mean(target < 1 - SOLID, radius) > 0)
    slope = box_mean(np.where(mixed, covariance / (variance + epsilon), 0), radius)
    return slope, target - slope * image


def guided_alpha(
    guide: NDArray[np.float32],
    alpha: NDArray[np.float32],
    radius: int,
    epsilon: float,
    certain: float,
) -> Array:
    """He, Sun, Tang, "Guided Image Filtering", equations 14 to 16, where alpha is unsure."""
    half, whole = [side // 2 for side in alpha.shape], alpha.shape
    image, target = (
        np.stack([resample(area_weights, plane, *half) for plane in planes])
        for planes in (guide.astype(np.float64), alpha.astype(np.float64)[None])
    )
    target = target[0]
    mean, mean_target = box_mean(image, radius), box_mean(target, radius)
    cross = box_mean(image * target, radius) - mean * mean_target
    second = box_mean(image[:, None] * image[None], radius) - mean[:, None] * mean[None]
    system = np.moveaxis(np.asarray(second), (0, 1), (-2, -1)) + epsilon * np.eye(3)
    solved = np.linalg.solve(system, np.moveaxis(np.asarray(cross), 0, -1)[..., None])[..., 0]
    slope: Array = np.moveaxis(np.asarray(solved, np.float64), -1, 0)
    offset = mean_target - (slope * mean).sum(0)
    averaged = (*box_mean(slope, radius), box_mean(offset, radius))
    *slopes, far = (resample(bilinear_weights, plane, *whole) for plane in averaged)
    filtered = sum(s * plane for s, plane in zip(slopes, guide, strict=True)) + far
    doubt = np.clip((np.minimum(alpha, 1 - alpha) - SOLID) / (certain - SOLID), 0, 1)
    return np.asarray(alpha + doubt * (np.clip(filtered, 0, 1) - alpha))


def estimate_foreground(
    color: NDArray[np.float32],
    alpha: NDArray[np.float32],
    radii: Sequence[int],
    bounds: Sequence[tuple[float, float]] = ((0, 1),) * 3,
) -> tuple[Array, Array]:
    """Blur fusion: Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021."""
    image, opacity = np.asarray(color, float), np.asarray(alpha, float)
    lower, upper = np.array(bounds, float).T[..., None, None]
    foreground = background = image
    for radius in radii:
        share = box_mean(opacity, radius)
        near = box_mean(foreground * opacity, radius) / (share + FUSION_EPSILON)
        far = box_mean(background * (1 - opacity), radius) / (1 - share + FUSION_EPSILON)
        residual = image - opacity * near - (1 - opacity) * far
        foreground = np.clip(near + opacity * residual, lower, upper)
        background = np.clip(far, lower, upper)
    return foreground, background


def move(planes: NDArray[np.float32], flow: NDArray[np.float32]) -> Array:
    """[h, w], or [h, w, channels] as [channels, h, w], moved along a flow of any size."""
    height, width = planes.shape[:2]
    rows, columns = flow.shape[:2]
    stacked = np.moveaxis(np.atleast_3d(planes.astype(float)), 2, 0)
    across = resample(bilinear_weights, flow[..., 0], height, width) * width / columns
    down = resample(bilinear_weights, flow[..., 1], height, width) * height / rows
    x = np.clip(np.arange(width) + across, 0, width - 1)
    y = np.clip(np.arange(height)[:, None] + down, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    x, y = x - left, y - top
    upper = stacked[:, top, left] * (1 - x) + stacked[:, top, right] * x
    lower = stacked[:, bottom, left] * (1 - x) + stacked[:, bottom, right] * x
    moved = upper * (1 - y) + lower * y
    return np.asarray(moved[0] if planes.ndim == 2 else moved)


def blend_moved(
    luma: NDArray[np.float32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    radius: int,
    noise: float,
    unfit: float,
) -> tuple[Array, Array]:
    """The maps, and the conflict, of two moved mattes, [n, h, w]: alpha, any other, luma."""
    one, other = first.astype(float), second.astype(float)
    misfits = box_mean(np.abs(np.stack([one[-1], other[-1]]) - luma), radius)
    weights = misfits[::-1] + noise
    apart = np.abs(first[:-1] - second[:-1])
    differ = (apart > np.float32(SOLID)).any(0)
    share = np.where(differ, weights[0] / weights.sum(0), 0.5)
    maps = share * one[:-1] + (1 - share) * other[:-1]
    return maps, apart[0] * (differ & (misfits.min(0) > unfit))


def fusion_weight(alpha: Array, fore: Array, back: Array) -> Array:
    """The beta for which alpha = beta F + (1 - beta) (1 - B), clipped; 1/2 where any does."""
    gap = fore + back - 1
    beta = np.where(gap == 0, 0.5, (alpha + back - 1) / np.where(gap == 0, 1, gap))
    return np.asarray(np.clip(beta, 0, 1))


def co_sited_mean(alpha: Array, shape: tuple[int, int]) -> Array:
    """Alpha at the chroma samples: the mean over the luma samples that each one covers."""
    height, width = alpha.shape
    rows, columns = shape
    down = 2 if rows < height else 1
    across = 2 if columns < width else 1
    padded = np.pad(alpha, ((0, rows * down - height), (0, columns * across - width)), mode="edge")
    return np.asarray(padded.reshape(rows, down, columns, across).mean(axis=(1, 3)))


def quantise(values: Array, peak: int) -> NDArray[np.int64]:
    """Code values: clipped to 0..peak, rounded half up."""
    return np.floor(np.clip(values, 0, peak) + 0.5).astype(np.int64)


def composite(
    planes: Sequence[Plane],
    slope: NDArray[np.float32],
    offset: NDArray[np.float32],
    background: Sequence[Plane] | NDArray[np.float32] | None,
    levels: Levels,
    shift: NDArray[np.float32] | None = None,
    keep_solid: bool = False,
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Y, U, V of the composite and the alpha plane, all with values in the low bits.

    Without a background, Y, U, V of the foreground.
    """
    frame = split(planes)
    peak = 255 if planes[0].dtype == np.uint8 else 1023
    size = frame[0].shape
    luma = (frame[0].astype(float) - levels[0]) / levels[1]
    alpha = np.clip(
        resample(bilinear_weights, slope, *size) * luma + resample(bilinear_weights, offset, *size),
        0,
        1,
    )
    solid = 1 - 0.5 / peak
    if keep_solid:
        alpha[alpha >= solid] = 1
    behind: list[Any] = [None] * 3
    if isinstance(background, np.ndarray):
        behind = [
            np.clip(resample(bilinear_weights, channel, *plane.shape), 0, peak)
            for channel, plane in zip(background, frame, strict=True)
        ]
    elif background is not None:
        behind = split(background)
    result = []
    for channel, (near, far) in enumerate(zip(frame, behind, strict=True)):
        opacity = alpha if channel == 0 else co_sited_mean(alpha, near.shape)
        color = near.astype(float)
        if shift is not None:
            share = np.clip(32 * (solid - opacity), 0, 1) if keep_solid else 1.0
            color += share * resample(bilinear_weights, shift[channel], *near.shape)
        color = np.clip(color, 0, peak)
        result.append(quantise(color if far is None else far + opacity * (color - far), peak))
    return result, quantise(alpha * peak, peak)
