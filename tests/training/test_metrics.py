"""The measures, on cases that can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusematte.training.metrics import (
    METRICS,
    connectivity,
    dtssd,
    error_maps,
    gradient_magnitude,
    intersection_over_union,
    messddt,
    total,
    transition_region,
)


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


def test_sad_is_a_sum_in_thousands_mad_and_mse_are_means() -> None:
    alpha, truth = np.array([[0.0, 0.25], [1.0, 0.5]]), np.array([[0.5, 0.25], [0.0, 0.75]])
    whole = total(error_maps(alpha, truth))
    assert whole["sad"] == pytest.approx((0.5 + 0 + 1 + 0.25) / 1000)
    assert whole["mad"] == pytest.approx((0.5 + 0 + 1 + 0.25) / 4)
    assert whole["mse"] == pytest.approx((0.25 + 0 + 1 + 0.0625) / 4)
    left = total(error_maps(alpha, truth), np.array([[True, False], [True, False]]))
    assert left["sad"] == pytest.approx(1.5 / 1000)
    assert left["mad"] == pytest.approx(0.75)
    assert set(left) == set(METRICS)


def test_a_perfect_matte_has_no_error_and_an_empty_region_no_number() -> None:
    truth = np.random.default_rng(0).random((20, 30))
    assert total(error_maps(truth, truth)) == dict.fromkeys(METRICS, 0)
    nothing = total(error_maps(truth, truth), np.zeros(truth.shape, bool))
    assert all(math.isnan(value) for value in nothing.values())


def gaussian_derivative(sigma: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The whole filter, value by value, as the benchmark's authors publish it."""
    half = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))

    def gauss(x: float) -> float:
        return math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    side = range(-half, half + 1)
    filter = np.array([[gauss(y) * -x * gauss(x) / sigma**2 for x in side] for y in side])
    return np.asarray(filter / np.sqrt((np.abs(filter) ** 2).sum()))


def test_the_gradient_is_that_of_a_gaussian_derivative() -> None:
    alpha = np.random.default_rng(1).random((13, 17))
    filter = gaussian_derivative(1.4)
    half = filter.shape[0] // 2
    padded = np.pad(alpha, half, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, filter.shape)
    x, y = ((windows * kernel).sum((2, 3)) for kernel in (filter, filter.T))
    np.testing.assert_allclose(gradient_magnitude(alpha), np.hypot(x, y), atol=1e-12)


def test_the_gradient_error_of_a_moved_edge() -> None:
    # A step of one has, row by row, the gradient that the filter's columns add up to.
    truth, alpha = np.zeros((9, 40)), np.zeros((9, 40))
    truth[:, 20:], alpha[:, 30:] = 1, 1
    columns = gaussian_derivative(1.4).sum(0)
    step = np.abs(np.cumsum(columns))  # the response beside an edge, and zero far away from it
    expected = 2 * 9 * (step**2).sum() / 1000  # both edges, one missing and one too many
    assert total(error_maps(alpha, truth))["grad"] == pytest.approx(expected, rel=1e-9)


def test_connectivity_of_an_island() -> None:
    # Both agree on the left block; the matte has an island on the right that the truth has not.
    truth, alpha = np.zeros((3, 7)), np.zeros((3, 7))
    truth[:, :3] = alpha[:, :3] = 1
    alpha[1, 5] = 0.8
    ours, theirs = connectivity(alpha, truth)
    # The island is not connected at any level: 1 - 0.8, where the truth has 1 - 0.
    assert ours[1, 5] == pytest.approx(0.2) and theirs[1, 5] == 1
    assert total(error_maps(alpha, truth))["conn"] == pytest.approx(0.8 / 1000)


def test_connectivity_stops_at_the_level_that_connects() -> None:
    # A bridge of 0.5 in the truth and 0.75 in the matte: connected up to 0.5.
    truth, alpha = np.array([[1, 0.5, 1, 1.0]]), np.array([[1, 0.75, 1, 1.0]])
    ours, theirs = connectivity(alpha, truth)
    # Levels: the bridge 0.5; the left pixel, cut off above that, 0.5 as well; the rest 1.
    assert ours[0].tolist() == pytest.approx([0.5, 0.75, 1, 1])
    assert theirs[0].tolist() == pytest.approx([0.5, 1, 1, 1])
    # Differences below 0.15 do not count.
    close = np.array([[1, 0.6, 1, 1.0]])
    np.testing.assert_allclose(*connectivity(close, truth))


def test_the_transition_region_is_dilated_by_25_pixels() -> None:
    truth = np.zeros((101, 101))
    truth[50, 50] = 0.5
    region = transition_region(truth)
    assert region[50, 25] and region[75, 50] and not region[50, 24] and not region[50, 76]
    assert not region[50 - 20, 50 - 20]  # round, not square
    assert abs(region.sum() / (math.pi * 25.5**2) - 1) < 0.03
    assert not transition_region(np.round(np.random.default_rng(0).random((9, 9)))).any()


def test_dtssd_is_of_the_changes() -> None:
    truths = [np.zeros((2, 2)), np.zeros((2, 2)), np.ones((2, 2))]
    steady = [truth + 0.3 for truth in truths]
    assert dtssd(steady, truths) == pytest.approx(0)  # wrong, but it does not flicker
    flicker = [np.zeros((2, 2)), np.full((2, 2), 0.2), np.ones((2, 2))]
    # Changes 0.2 and 0.8 where the truth has 0 and 1: 0.2 off both times.
    assert dtssd(flicker, truths) == pytest.approx(0.2)
    one = [np.zeros((2, 2)), np.array([[0.4, 0], [0, 0]]), np.zeros((2, 2))]
    assert dtssd(one, [np.zeros((2, 2))] * 3) == pytest.approx(math.sqrt(0.16 / 4))


def test_messddt_follows_the_motion() -> None:
    truth = np.zeros((4, 6))
    error = truth.copy()
    error[1, 1] = 0.6
    moved = truth.copy()
    moved[1, 3] = 0.6
    right, still = np.zeros((4, 6, 2)), np.zeros((4, 6, 2))
    right[..., 0] = 2
    # An error that moves with what it is attached to is no flicker ...
    assert messddt([error, moved], [truth, truth], [right]) == pytest.approx(0, abs=1e-7)
    # ... and one that jumps over a still picture is: 0.36 appears once and vanishes once.
    assert messddt([error, moved], [truth, truth], [still]) == pytest.approx(
        2 * 0.36 / 24, rel=1e-6
    )
    # Pixels that leave the picture do not count: of 24 the columns 4 and 5.
    gone = [np.where(np.arange(6) >= 4, 0.5, 0) * np.ones((4, 1)), truth]
    assert messddt(gone, [truth, truth], [right]) == 0
