"""Matting metrics, as defined in the literature.

Alphas are [H, W] floats in 0..1, regions [H, W] bool.  SAD, gradient and connectivity are sums, in
thousands; MSE and MAD are means.  The four of alphamatting.com: Rhemann et al., "A Perceptually
Motivated Online Benchmark for Image Matting", CVPR 2009; over time: Erofeev et al., "Perceptually
Motivated Benchmark for Video Matting", BMVC 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating]
Region = NDArray[np.bool_]

TRANSITION_RADIUS = 25
"""Pixels by which the paper dilates the transition region (section 4)."""
GRADIENT_SIGMA = 1.4
CONNECTIVITY_STEP = 0.1
CONNECTIVITY_TOLERANCE = 0.15
"""Distances to the connected level below this are ignored (theta of the article)."""
METRICS = ("sad", "mse", "mad", "grad", "conn")


def transition_region(truth: Map, radius: int = TRANSITION_RADIUS) -> Region:
    """The pixels within ``radius`` of a pixel with 0 < alpha < 1."""
    soft = ((truth > 0) & (truth < 1)).astype(np.uint8)
    side = 2 * radius + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.dilate(soft, element) > 0)


def error_maps(alpha: Map, truth: Map) -> dict[str, Map]:
    """The contribution of each pixel to each of METRICS."""
    difference = np.abs(alpha - truth)
    return {
        "sad": difference,
        "mse": np.square(difference),
        "mad": difference,
        "grad": np.square(gradient_magnitude(alpha) - gradient_magnitude(truth)),
        "conn": np.abs(np.subtract(*connectivity(alpha, truth))),
    }


def total(errors: dict[str, Map], region: Region | None = None) -> dict[str, float]:
    """The metrics over a region, or over the whole picture; NaN if the region is empty."""
    inside = {name: error if region is None else error[region] for name, error in errors.items()}
    return {
        name: math.nan
        if error.size == 0
        else float(error.mean(dtype=np.float64))
        if name in ("mse", "mad")
        else float(error.sum(dtype=np.float64)) / 1000
        for name, error in inside.items()
    }


def intersection_over_union(alpha: Map, truth: Map) -> float:
    """IoU of the pixels above 0.5; 1 if both are empty."""
    a, b = alpha > 0.5, truth > 0.5
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


@cache
def _gaussian_derivative(sigma: float) -> tuple[Map, Map]:
    """The smoothing and the derivative factor of a separable filter with unit L2 norm, truncated
    where the Gaussian falls below 0.01."""
    half = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))
    x = np.arange(-half, half + 1, dtype=np.float64)
    smooth = np.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    derive = -x * smooth / sigma**2
    norm = math.sqrt(float((smooth**2).sum() * (derive**2).sum()))
    return smooth, derive / norm


def gradient_magnitude(alpha: Map, sigma: float = GRADIENT_SIGMA) -> Map:
    """Magnitude of the alpha's gradient by Gaussian derivatives, with replicated borders."""
    smooth, derive = _gaussian_derivative(sigma)
    image = np.asarray(alpha, np.float64)
    # filter2D correlates: the sign of a derivative does not matter for the magnitude.
    x = cv2.sepFilter2D(image, cv2.CV_64F, derive, smooth, borderType=cv2.BORDER_REPLICATE)
    y = cv2.sepFilter2D(image, cv2.CV_64F, smooth, derive, borderType=cv2.BORDER_REPLICATE)
    return np.hypot(x, y)


def connectivity(alpha: Map, truth: Map) -> tuple[Map, Map]:
    """Degree of connectivity of each pixel of both mattes to their common region, 0..1.

    The level of a pixel is the highest threshold at which it still belongs to the largest connected
    region (of four neighbours) where both alphas reach the threshold.
    """
    level = np.full(truth.shape, -1.0)
    thresholds = np.arange(0, 1 + CONNECTIVITY_STEP / 2, CONNECTIVITY_STEP)
    for below, threshold in pairwise(thresholds):
        both = ((alpha >= threshold) & (truth >= threshold)).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(both, connectivity=4)
        largest = np.zeros(truth.shape, bool)
        if count > 1:
            largest = labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
        level[(level < 0) & ~largest] = below
    level[level < 0] = 1

    def degree(matte: Map) -> Map:
        distance = matte - level
        return np.where(distance >= CONNECTIVITY_TOLERANCE, 1 - distance, 1.0)

    return degree(alpha), degree(truth)


# --- over time ------------------------------------------------------------------------------------


def dtssd(alphas: Sequence[Map], truths: Sequence[Map]) -> float:
    """dtSSD: the RMS difference between the temporal changes of matte and truth, averaged over the
    pairs of consecutive frames."""
    values = [
        np.sqrt(np.square((a1 - a0) - (t1 - t0)).mean(dtype=np.float64))
        for a0, a1, t0, t1 in zip(alphas, alphas[1:], truths, truths[1:], strict=False)
    ]
    return float(np.mean(values))


def messddt(alphas: Sequence[Map], truths: Sequence[Map], flows: Sequence[Map]) -> float:
    """MESSDdt: the mean absolute change of the squared error along the motion, over the pixels that
    stay in the picture, averaged over the pairs of consecutive frames.

    flows: [H, W, 2] each: the displacement (x, y) of each pixel to the next frame, in pixels.
    """
    errors = [np.square(a - t).astype(np.float32) for a, t in zip(alphas, truths, strict=True)]
    values = []
    for error, following, flow in zip(errors, errors[1:], flows, strict=False):
        height, width = error.shape
        x, y = (flow + np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2)).transpose(
            2, 0, 1
        )
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        moved = cv2.remap(following, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
        values.append(np.abs(error - moved)[inside].mean(dtype=np.float64))
    return float(np.mean(values))
