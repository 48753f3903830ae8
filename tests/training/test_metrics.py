"""The measures, on cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fusematte.training.metrics import intersection_over_union, mean_absolute_difference


def test_iou_counts_pixels_over_one_half() -> None:
    alpha = np.array([[0.0, 0.51, 0.9, 1.0]])
    truth = np.array([[0.6, 0.5, 0.7, 1.0]])
    # Over 0.5: alpha in columns 1, 2, 3; truth in 0, 2, 3.  Two in common, four in all.
    assert intersection_over_union(alpha, truth) == pytest.approx(2 / 4)
    assert intersection_over_union(truth, alpha) == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("alpha", "truth", "iou"), [(0, 0, 1), (1, 1, 1), (0, 1, 0), (1, 0, 0), (0.5, 0.5, 1)]
)
def test_iou_of_flat_maps(alpha: float, truth: float, iou: float) -> None:
    assert intersection_over_union(np.full((3, 2), alpha), np.full((3, 2), truth)) == iou


def test_mad_is_the_mean_over_all_pixels() -> None:
    alpha, truth = np.array([[0.0, 0.25], [1.0, 0.5]]), np.array([[0.5, 0.25], [0.0, 0.75]])
    assert mean_absolute_difference(alpha, truth) == pytest.approx((0.5 + 0 + 1 + 0.25) / 4)
    assert mean_absolute_difference(alpha, alpha) == 0
