"""Mask controls: each does what its name says, everywhere in the same way."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from tests.helpers import matte_of, picture

from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.composite import compose
from fusematte.engine.compositing.look import PLAIN, Look
from fusematte.engine.errors import UsageError
from fusematte.engine.frame import Frame, Matte
from fusematte.engine.matting.mask import WHOLE, Mask, edited_alpha
from fusematte.engine.matting.refine import refine
from fusematte.engine.pixels.color import frame_from_rgb

HEIGHT, WIDTH = 96, 128


@pytest.fixture
def frame() -> Frame:
    return frame_from_rgb(picture(WIDTH, HEIGHT, 1))


@pytest.fixture
def matte(frame: Frame) -> Matte:
    """A disc with a soft edge."""
    y, x = np.mgrid[0:48, 0:64]
    return matte_of(frame, np.clip(16 - np.hypot(x - 32, y - 24), 0, 1).astype(np.float32))


def square(side: int = 21) -> np.ndarray:
    alpha = np.zeros((61, 61), np.uint8)
    middle = slice(30 - side // 2, 31 + side // 2)
    alpha[middle, middle] = 255
    return alpha


def test_invert_is_the_complement() -> None:
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(Mask(invert=True).edit(alpha, 255), 255 - alpha)
    deep = np.array([[0, 400, 1023]], np.uint16)
    np.testing.assert_array_equal(Mask(invert=True).edit(deep, 1023), [[1023, 623, 0]])


@pytest.mark.parametrize("pixels", [1, 4, -1, -4])
def test_grow_moves_the_edge_by_so_many_pixels(pixels: int) -> None:
    grown = Mask(grow=pixels).edit(square(), 255)
    assert np.count_nonzero(grown[30]) == np.count_nonzero(grown[:, 30]) == 21 + 2 * pixels


def test_feather_keeps_the_edge_where_it_is() -> None:
    soft = Mask(feather=4).edit(square(41), 255)[30].astype(int)
    assert np.abs(np.diff(soft)).max() < 30  # a slope, and where it was
    assert abs(soft[9] + soft[10] - 255) < 20
    assert soft[30] == 255


def test_min_alpha_takes_the_faint_away() -> None:
    alpha = np.arange(256, dtype=np.uint8)[None]
    kept = Mask(min_alpha=0.5).edit(alpha, 255)[0]
    assert not kept[:128].any()
    np.testing.assert_array_equal(kept[128:], alpha[0, 128:])


def test_the_order_is_min_alpha_grow_feather_invert() -> None:
    alpha = square()
    alpha[5, 5] = 40  # faint: gone before it could grow
    together = Mask(min_alpha=0.2, grow=3, feather=2, invert=True).edit(alpha, 255)
    one_by_one = alpha
    for mask in (Mask(min_alpha=0.2), Mask(grow=3), Mask(feather=2), Mask(invert=True)):
        one_by_one = mask.edit(one_by_one, 255)
    np.testing.assert_array_equal(together, one_by_one)
    assert together[5, 5] == 255


@pytest.mark.parametrize(
    "wrong", [{"grow": 101}, {"feather": -1}, {"feather": float("nan")}, {"min_alpha": 1.1}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", " ")):
        Mask(**wrong)  # type: ignore[arg-type]


MASKS = [Mask(invert=True), Mask(grow=5), Mask(grow=-3, feather=2.5), Mask(min_alpha=0.4)]


@pytest.mark.parametrize("mask", MASKS)
def test_the_composite_shows_the_edited_alpha(frame: Frame, matte: Matte, mask: Mask) -> None:
    background = open_background("#000000")
    made = compose(frame, matte, background, look=Look(mask=mask), with_alpha=True)
    assert made.alpha is not None
    wanted = mask.edit(refine(frame, matte), 255)
    np.testing.assert_array_equal(made.alpha, wanted)
    np.testing.assert_array_equal(edited_alpha(frame, matte, mask), wanted)
    luma = made.frame.planes[0]
    assert not luma[wanted == 0].any()
    np.testing.assert_array_equal(luma[wanted == 255], frame.planes[0][wanted == 255])


def test_transparent_pictures_get_the_edited_alpha(frame: Frame, matte: Matte) -> None:
    mask = Mask(invert=True)
    made = compose(frame, matte, open_background("transparent"), look=Look(mask=mask))
    assert made.frame.alpha is not None
    np.testing.assert_array_equal(made.frame.alpha, 255 - refine(frame, matte))


def test_without_edits_nothing_changes(frame: Frame, matte: Matte) -> None:
    assert Look(mask=Mask()) == PLAIN and Mask() == WHOLE
    plain = compose(frame, matte, open_background("green")).frame
    none = compose(frame, matte, open_background("green"), look=Look(mask=Mask())).frame
    for one, other in zip(plain.planes, none.planes, strict=True):
        np.testing.assert_array_equal(one, other)


def test_inverted_blur_blurs_the_people(frame: Frame, matte: Matte) -> None:
    made = compose(frame, matte, open_background("blur:60"), look=Look(mask=Mask(invert=True)))
    away = refine(frame, matte) == 0
    np.testing.assert_array_equal(made.frame.planes[0][away], frame.planes[0][away])
    inside = cv2.erode((~away).astype(np.uint8), np.ones((9, 9))) > 0
    assert made.frame.planes[0][inside].std() < frame.planes[0][inside].std()
