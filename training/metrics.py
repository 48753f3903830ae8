"""Measures of a matte against the truth.  Alphas are [H, W] floats in 0..1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating]


def intersection_over_union(alpha: Map, truth: Map) -> float:
    """IoU of the pixels above 0.5; 1 where both are empty."""
    a, b = alpha > 0.5, truth > 0.5
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def mean_absolute_difference(alpha: Map, truth: Map) -> float:
    """MAD over all pixels."""
    return float(np.abs(alpha - truth).mean())
