"""Scenes: what is rendered is where its alpha says it is, at any time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusematte.training.geometry import Picture, affine, warp
from fusematte.training.scenes import STILL, CutOut, Layer, Motion, Scene, compose

HEIGHT, WIDTH = 48, 80


def flat(value: int, *, height: int = 40, width: int = 60) -> Picture:
    return np.full((height, width, 3), value, np.uint8)


def room(value: int = 50) -> CutOut:
    return CutOut(flat(value), np.zeros((40, 60), np.uint8))


def block(value: int = 200, alpha: int = 255, size: int = 10, *, exact: bool = True) -> CutOut:
    return CutOut(
        flat(value, height=size, width=size), np.full((size, size), alpha, np.uint8), exact
    )


def at(x: float, y: float, scale: float = 1.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return affine(scale * np.eye(2), np.array([x, y]))


def scene(*layers: Layer, camera: Motion = STILL, behind: CutOut | None = None) -> Scene:
    return Scene(HEIGHT, WIDTH, behind or room(), at(0, 0, 2), layers, camera)


def test_a_layer_lies_where_its_place_says() -> None:
    view = scene(Layer(block(), at(20, 8))).view()
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[8:18, 20:30] = True
    np.testing.assert_array_equal(view.alpha, np.where(inside, 255, 0))
    np.testing.assert_array_equal(view.image[..., 0], np.where(inside, 200, 50))
    assert (view.exact == 255).all()


def test_a_thing_in_front_hides_a_person_and_one_behind_does_not() -> None:
    person, thing = Layer(block(), at(20, 8)), Layer(block(99), at(25, 8), wanted=False)
    hidden, shown = scene(person, thing).view(), scene(thing, person).view()
    assert (hidden.alpha > 0).sum() == 50
    assert (shown.alpha > 0).sum() == 100
    assert hidden.image[10, 27, 0] == 99
    assert shown.image[10, 27, 0] == 200


def test_half_transparent_people_add_up_as_light_does() -> None:
    view = scene(Layer(block(alpha=128), at(20, 8)), Layer(block(alpha=128), at(20, 8))).view()
    assert view.alpha[12, 25] == pytest.approx(255 * (1 - (1 - 128 / 255) ** 2), abs=1)
    share = int(view.alpha[12, 25]) / 255
    assert view.image[12, 25, 0] == pytest.approx(50 + 150 * share, abs=1.5)


def test_an_alpha_that_is_a_guess_is_marked_around_its_transition() -> None:
    soft = block(exact=False)
    soft.alpha[:, :3] = 100
    view = scene(Layer(soft, at(20, 8))).view()
    assert (view.exact[8:18, 20:23] == 0).all()
    assert view.exact[12, 29] == 255 and view.exact[40, 60] == 255
    covered = scene(Layer(soft, at(20, 8)), Layer(block(), at(20, 8))).view()
    assert (covered.exact[8:18, 20:30] == 255).all()  # what covers it is known


def test_people_who_are_in_the_room_already_count() -> None:
    behind = CutOut(flat(50), np.full((40, 60), 255, np.uint8))
    view = scene(Layer(block(), at(20, 8), wanted=False), behind=behind).view()
    assert (view.alpha == 0).sum() == 100


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-20, 20), st.floats(-10, 10), st.floats(-10, 10), st.floats(-0.1, 0.1),
    st.floats(5, 200), st.floats(0, 6), st.floats(-30, 30),
)  # fmt: skip
def test_the_alpha_at_any_time_is_that_of_the_view(
    x: float, y: float, turn: float, zoom: float, period: float, phase: float, time: float
) -> None:
    motion = Motion((x, y), turn, zoom, period, phase)
    moving = scene(Layer(block(), at(30, 20), motion), camera=Motion((y, x), -turn, zoom, 40))
    np.testing.assert_array_equal(moving.alpha(time), moving.view(time).alpha)


def test_a_motion_comes_back_after_its_period() -> None:
    motion = Motion((7, 3), 5, 0.1, 30, 1)
    np.testing.assert_allclose(motion.at(4, (10, 20)), motion.at(34, (10, 20)))
    assert not np.allclose(motion.at(4, (10, 20)), motion.at(12, (10, 20)))


def test_a_swing_moves_a_layer_as_far_as_it_says() -> None:
    motion = Motion((12, 0), period=40)
    moving = scene(Layer(block(), at(30, 20), motion))
    columns = [np.flatnonzero(moving.alpha(time).max(0) > 127)[0] for time in (0, 10, 30)]
    assert columns == [30, 42, 18]


def test_motion_blur_smears_picture_and_alpha_alike() -> None:
    motion = Motion((20, 0), period=20)
    sharp, blurred = (
        scene(Layer(block(), at(30, 20), motion, exposure=exposure)).view() for exposure in (0, 0.9)
    )
    soft = (blurred.alpha > 0) & (blurred.alpha < 255)
    assert soft.sum() > 30 and not ((sharp.alpha > 0) & (sharp.alpha < 255)).any()
    weight = blurred.alpha[soft].astype(float) / 255
    np.testing.assert_allclose(blurred.image[..., 0][soft], 50 + 150 * weight, atol=2)


def test_a_shadow_darkens_the_room_and_light_wraps_round_the_edges() -> None:
    plain, shaded, wrapped = (
        scene(Layer(block(size=20), at(30, 10), shadow=shadow, wrap=wrap)).view()
        for shadow, wrap in ((0, 0), (0.5, 0), (0, 0.5))
    )
    for view in (shaded, wrapped):
        np.testing.assert_array_equal(view.alpha, plain.alpha)
    outside, inside = plain.alpha == 0, plain.alpha == 255
    assert shaded.image[outside].mean() < plain.image[outside].mean()
    np.testing.assert_array_equal(shaded.image[inside], plain.image[inside])
    assert wrapped.image[inside].mean() < plain.image[inside].mean()  # the room is darker
    np.testing.assert_array_equal(wrapped.image[outside], plain.image[outside])


def test_what_becomes_smaller_is_averaged() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = warp(stripes, at(0, 0, 0.25), 16, 16, cv2.BORDER_REPLICATE)
    # Single samples would be 0 or 255.
    assert np.abs(small[2:-2, 2:-2].astype(int) - 127).max() <= 45


def test_compose_is_equation_1() -> None:
    rng = np.random.default_rng(0)
    people, behind = (rng.integers(0, 256, (9, 7, 3), np.uint8) for _ in range(2))
    alpha = rng.integers(0, 256, (9, 7), np.uint8)
    share = alpha[..., None] / 255
    expected = share * people + (1 - share) * behind
    np.testing.assert_allclose(compose(people, alpha, behind), expected, atol=0.51)
