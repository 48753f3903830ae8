"""Crops: what of a picture they show."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fusematte.training.augment import CROPS, spoil, transition_crop, whole_picture


def disc(height: int = 96, width: int = 160) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    alpha = np.zeros((height, width), np.uint8)
    cv2.circle(alpha, (width // 2, height // 2), 30, 255, -1, cv2.LINE_AA)
    return alpha


@pytest.mark.parametrize("name", CROPS)
def test_crops_are_drawn_from_the_generator_alone(name: str) -> None:
    first, again, other = (
        CROPS[name](np.random.default_rng(seed), disc(), 64, 96) for seed in (1, 1, 2)
    )
    assert first.shape == (3, 3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_transition_crop_is_centred_on_the_edge_at_full_scale() -> None:
    alpha = disc()
    for seed in range(20):
        matrix = transition_crop(np.random.default_rng(seed), alpha, 64, 96)
        assert abs(np.linalg.det(matrix)) == pytest.approx(1)
        column, row, _ = np.linalg.inv(matrix) @ (48, 32, 1)
        # Half a pixel: where a pixel's centre is.
        assert 29 < np.hypot(column - 0.5 - 80, row - 0.5 - 48) < 32


def test_a_hard_alpha_is_cropped_anywhere() -> None:
    matrix = transition_crop(np.random.default_rng(0), np.zeros((40, 50), np.uint8), 32, 32)
    column, row, _ = np.linalg.inv(matrix) @ (16, 16, 1)
    assert 0 < column < 50 and 0 < row < 40


def test_the_whole_picture_is_in_view_but_for_its_corners() -> None:
    alpha = np.full((96, 160), 255, np.uint8)
    for seed in range(10):
        matrix = whole_picture(np.random.default_rng(seed), alpha, 64, 96)
        assert abs(np.linalg.det(matrix)) == pytest.approx(64 / 96 * 96 / 160)
        np.testing.assert_allclose(matrix @ (80, 48, 1), (48, 32, 1))


def test_a_spoilt_alpha_is_near_the_true_one_but_hardly_ever_the_same() -> None:
    alpha = disc()
    errors = [
        np.abs(spoil(np.random.default_rng(seed), alpha).astype(int) - alpha).mean() / 255
        for seed in range(60)
    ]
    assert np.median(errors) < 0.08
    assert sum(error == 0 for error in errors) <= 2
