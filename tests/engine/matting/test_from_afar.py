"""A first matte and its look from afar."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusematte.engine.frame import Map
from fusematte.engine.matting.from_afar import FOUND, SHARE, confirmed

HEIGHT, WIDTH = 96, 160
SMALL = round(SHARE * HEIGHT), round(SHARE * WIDTH)


def boxes(*columns: int, value: float = 1.0) -> Map:
    """People 20 pixels wide, from these columns on, that the picture cuts off at the bottom."""
    alpha = np.zeros((HEIGHT, WIDTH), np.float32)
    for column in columns:
        alpha[20:, column : column + 20] = value
    return alpha


def canvas_of(alpha: Map) -> Map:
    """What a network says from afar that finds this."""
    small = cv2.resize(alpha, SMALL[::-1], interpolation=cv2.INTER_AREA)
    canvas = np.zeros_like(alpha)
    left = (WIDTH - SMALL[1]) // 2
    canvas[HEIGHT - SMALL[0] :, left : left + SMALL[1]] = small
    return canvas


def picture() -> Map:
    return np.random.default_rng(0).random((1, 3, HEIGHT, WIDTH), np.float32)


def test_what_is_not_found_from_afar_is_left_out_and_the_rest_stays_as_it_is() -> None:
    alpha = boxes(10, value=0.9) + boxes(70) + boxes(130)
    got = confirmed(alpha, picture(), lambda _: canvas_of(boxes(10, 130)))
    np.testing.assert_array_equal(got, boxes(10, value=0.9) + boxes(130))


@given(value=st.floats(0, 1), share=st.floats(0, 1))
def test_a_part_is_found_by_the_mean_over_what_is_solid_of_it(value: float, share: float) -> None:
    alpha, rows = boxes(70), round(share * (HEIGHT - 20))
    afar = boxes(70, value=value)
    afar[: 20 + rows] = 0
    found = cv2.resize(cv2.resize(afar, SMALL[::-1], interpolation=cv2.INTER_AREA), (WIDTH, HEIGHT))
    mean = float(found[alpha > 0].mean())
    if abs(mean - FOUND) < 1e-3:
        return
    got = confirmed(alpha, picture(), lambda _: canvas_of(afar))
    np.testing.assert_array_equal(got, alpha if mean > FOUND else 0 * alpha)


def test_soft_edges_belong_to_their_part_and_shades_alone_to_none() -> None:
    alpha = boxes(70)
    alpha[:, 90:95] = 0.2
    shade = np.zeros_like(alpha)
    shade[:30, :30] = 0.3
    got = confirmed(alpha + shade, picture(), lambda _: np.ones_like(alpha))
    np.testing.assert_array_equal(got, alpha)


def test_where_nobody_is_nothing_is_asked() -> None:
    alpha = np.full((HEIGHT, WIDTH), 0.05, np.float32)
    got = confirmed(alpha, picture(), lambda _: pytest.fail("looked"))
    np.testing.assert_array_equal(got, alpha)


def test_from_afar_is_the_whole_picture_at_the_bottom_of_one_as_large() -> None:
    image, seen = picture(), []

    def look(canvas: Map) -> Map:
        seen.append(canvas)
        return boxes(70)

    confirmed(boxes(70), image, look)
    (canvas,) = seen
    assert canvas.shape == image.shape
    left = (WIDTH - SMALL[1]) // 2
    part = canvas[0, :, HEIGHT - SMALL[0] :, left : left + SMALL[1]]
    for plane, expected in zip(part, image[0], strict=True):
        small = cv2.resize(expected, SMALL[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(plane, small)
    # All around is the picture's border.
    np.testing.assert_array_equal(canvas[..., :left], canvas[..., left : left + 1].repeat(left, 3))
    top = HEIGHT - SMALL[0]
    np.testing.assert_array_equal(canvas[:, :, :top], canvas[:, :, top : top + 1].repeat(top, 2))
