"""Scenes drawn at random: repeatable, and as a camera would see them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusematte.training.composer import Composer, cut_sides, go_on, place_person, sign
from fusematte.training.config import SceneConfig
from fusematte.training.geometry import Picture
from fusematte.training.scenes import CutOut

HEIGHT, WIDTH = 64, 112


def rooms() -> list[Picture]:
    return [np.full((50, 60, 3), value, np.uint8) for value in (40, 90)]


def person(*cut: str) -> CutOut:
    """A body of 30 x 20 in a picture with a margin, but on the sides that cut it off."""
    alpha = np.zeros((40, 30), np.uint8)
    top, bottom = (0 if "top" in cut else 5), (40 if "bottom" in cut else 35)
    left, right = (0 if "left" in cut else 5), (30 if "right" in cut else 25)
    alpha[top:bottom, left:right] = 255
    return CutOut(np.full((40, 30, 3), 200, np.uint8), alpha)


def composer(*cut: str, **config: object) -> Composer:
    return Composer(rooms(), [[person(*cut)]], config=SceneConfig(**config))  # type: ignore[arg-type]


def test_a_scene_depends_on_its_generator_alone() -> None:
    draw = composer("bottom", things=0.0)
    first, again, other = (
        draw.scene(np.random.default_rng(seed), HEIGHT, WIDTH).view(3) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.alpha, again.alpha)
    assert not np.array_equal(first.image, other.image)


def test_there_are_as_many_people_as_drawn() -> None:
    for count in range(4):
        shares = tuple(float(index == count) for index in range(4))
        draw = composer(people=shares, posters=0.0)
        for seed in range(10):
            made = draw.scene(np.random.default_rng(seed), HEIGHT, WIDTH)
            assert len(made.layers) == count
            assert (made.view().alpha.max() > 0) == (count > 0) or count
    assert composer(people=(1.0,)).scene(np.random.default_rng(0), 32, 32).view().alpha.max() == 0


def test_a_plain_wall_has_few_colours_and_nobody_in_front() -> None:
    draw = composer(people=(1.0,), plain=1.0, moving=0.0)
    colours, brightest = set(), []
    for seed in range(20):
        view = draw.scene(np.random.default_rng(seed), HEIGHT, WIDTH).view()
        assert view.alpha.max() == 0
        colours.add(len(np.unique(view.image.reshape(-1, 3), axis=0)))
        brightest.append(int(view.image.max()))
    assert min(brightest) < 32 and max(brightest) > 200  # covered lenses, and walls
    assert min(colours) == 1  # one colour all over
    assert max(colours) > 16  # gradients


def test_smaller_people_stand_behind() -> None:
    draw = composer(people=(0.0, 0.0, 0.0, 1.0))
    for seed in range(10):
        layers = draw.scene(np.random.default_rng(seed), HEIGHT, WIDTH).layers
        heights = [layer.drawn_height for layer in layers]
        assert heights == sorted(heights)


@pytest.mark.parametrize("cut", [(), ("bottom",), ("left", "bottom"), ("left", "right"), ("top",)])
def test_cut_sides_are_seen(cut: tuple[str, ...]) -> None:
    seen = dict(zip(("left", "top", "right", "bottom"), cut_sides(person(*cut).alpha), strict=True))
    assert {side for side, is_cut in seen.items() if is_cut} == set(cut)


def test_a_touch_is_no_cut() -> None:
    alpha = person().alpha
    alpha[20, :6] = 255  # an elbow
    assert cut_sides(alpha) == (False,) * 4


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(), ("bottom",), ("left", "bottom"), ("right",), ("left", "right", "bottom")]),
)
def test_bodies_leave_the_frame_where_their_picture_cuts_them_off(
    seed: int, cut: tuple[str, ...]
) -> None:
    cutout = person(*cut)
    place = place_person(np.random.default_rng(seed), cutout, HEIGHT, WIDTH, (0.3, 1.5))
    left, _, right, bottom = cut_sides(cutout.alpha)
    rows, columns = np.nonzero(cutout.alpha)
    corners = place @ np.array(
        [
            [columns.min(), columns.max() + 1],
            [rows.min(), rows.max() + 1],
            [1, 1],
        ]
    )
    if place[0, 0] < 0:  # mirrored
        left, right = right, left
    x, y = np.sort(corners[0]), corners[1]
    tolerance = 1e-6
    assert y[1] >= HEIGHT - tolerance or not bottom
    assert x[0] <= tolerance or not left
    assert x[1] >= WIDTH - tolerance or not right
    # And somebody is to be seen.
    assert y[0] < HEIGHT and x[0] < WIDTH and x[1] > 0


def test_a_body_goes_on_beyond_its_picture_when_it_moves() -> None:
    cutout = person("bottom")
    place = np.diag([2.0, 2.0, 1.0])
    longer, moved = go_on(cutout, place)
    assert longer.size == (50, 30)
    assert (longer.alpha[40:, 5:25] == 255).all() and (longer.alpha[40:, :5] == 0).all()
    np.testing.assert_array_equal(moved, place)
    same, _ = go_on(person(), place)
    assert same.size == (40, 30)
    wider, shifted = go_on(person("left"), place)
    np.testing.assert_allclose(shifted @ (7, 0, 1), (0, 0, 1))  # a quarter of 30 pixels more
    assert wider.size == (40, 37)


def test_pictures_of_people_on_the_wall_are_nobody() -> None:
    portrait = np.full((40, 30, 3), 250, np.uint8)
    config = SceneConfig(people=(1.0,), posters=1.0, things=0.0, colours=0.0, light=0.0)
    draw = Composer(rooms(), pictured=[portrait], config=config, photometric=False)
    views = [draw.scene(np.random.default_rng(seed), HEIGHT, WIDTH).view() for seed in range(30)]
    assert all(view.alpha.max() == 0 for view in views)
    portraits = sum((view.image == 250).all(-1).sum() > 20 for view in views)
    assert 5 <= portraits <= 20, "the others are signs"


def test_signs_have_text_of_many_sizes() -> None:
    panels = [sign(np.random.default_rng(seed)) for seed in range(20)]
    assert all(min(panel.shape[:2]) >= 96 for panel in panels)
    edges = [(np.abs(np.diff(panel.astype(int), axis=1)).max(-1) > 8).mean() for panel in panels]
    assert min(edges) > 0.005 and max(edges) > 5 * min(edges)


def test_the_rooms_light_falls_on_people() -> None:
    dark = np.full((50, 60, 3), 10, np.uint8)
    means = []
    for light in (0.0, 1.0):
        config = SceneConfig(
            people=(0.0, 1.0), light=light, colours=0.0, out_of_focus=0.0, things=0.0
        )
        draw = Composer([dark], [[person()]], config=config)
        views = [draw.scene(np.random.default_rng(s), HEIGHT, WIDTH).view() for s in range(20)]
        pixels = np.concatenate([view.image[view.alpha == 255] for view in views])
        means.append(pixels.mean())
    assert means[1] < 0.8 * means[0]
