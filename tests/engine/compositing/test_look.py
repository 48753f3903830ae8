"""Light wrap and despill."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.helpers import matte_of

from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.composite import compose, composite
from fusematte.engine.compositing.look import Look, despilled, wrapped
from fusematte.engine.errors import UsageError
from fusematte.engine.frame import Frame, Map, Matte
from fusematte.engine.pixels.color import frame_from_rgb

SKIN, GREEN = (200, 150, 130), (40, 180, 60)


def person() -> Map:
    """A disc with a soft edge."""
    mask = np.zeros((72, 128), np.float32)
    cv2.circle(mask, (64, 36), 24, 1, -1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 2), np.float32)


def scene(spill: float) -> tuple[Frame, Matte]:
    """A person before a green screen, of which ``spill`` shines on them."""
    alpha = person()
    skin, green = np.array(SKIN, np.float32), np.array(GREEN, np.float32)
    lit = skin + spill * (green - skin)
    large = cv2.resize(alpha, (256, 144))[..., None]
    picture = (large * lit + (1 - large) * green).astype(np.uint8)
    frame = frame_from_rgb(picture)
    return frame, matte_of(frame, alpha)


def chroma_at(frame: Frame, row: int, column: int) -> tuple[int, int]:
    return int(frame.planes[1][row, column]), int(frame.planes[2][row, column])


def test_despill_takes_the_rooms_hue_off_the_people() -> None:
    frame, matte = scene(spill=0.6)
    distances = []
    for strength in (0, 0.5, 1):
        shown = composite(frame, matte, "#808080", despill=strength)
        distances.append(np.hypot(*np.subtract(chroma_at(shown, 72, 128), 128)))
    assert distances[0] > distances[1] > distances[2]


def test_despill_leaves_other_hues_and_gray_rooms_alone() -> None:
    frame, matte = scene(spill=0)
    plain, cleaned = (composite(frame, matte, "green", despill=x) for x in (0, 1))
    for a, b in zip(plain.planes, cleaned.planes, strict=True):
        assert a[72, 128] == b[72, 128]
    color = np.random.default_rng(0).uniform(-0.3, 0.3, (3, 4, 5)).astype(np.float32)
    gray = np.zeros_like(color)
    np.testing.assert_array_equal(despilled(color, gray, gray[0], 1), color)


def test_despill_removes_exactly_the_excess() -> None:
    room = np.zeros((3, 2, 2), np.float32)
    room[2] = 0.4  # red
    people = np.zeros((3, 2, 2), np.float32)
    people[1], people[2] = 0.1, 0.3
    result = despilled(people, room, np.zeros((2, 2), np.float32), 1)
    np.testing.assert_allclose(result[1], 0.1, atol=1e-6)
    np.testing.assert_allclose(result[2], 0.1, atol=1e-6)  # as far along the hue as across it
    half = despilled(people, room, np.zeros((2, 2), np.float32), 0.5)
    np.testing.assert_allclose(half[2], 0.2, atol=1e-6)


@pytest.mark.parametrize("background", ["#ffffff", "#000000"])
def test_light_wrap_shines_over_the_edge_and_not_into_the_middle(background: str) -> None:
    frame, matte = scene(spill=0)
    plain, lit = (composite(frame, matte, background, light_wrap=x) for x in (0, 1))
    difference = lit.planes[0].astype(int) - plain.planes[0]
    edge, middle = difference[72, 128 + 42], difference[72, 128]
    assert middle == 0
    assert abs(edge) > 4
    assert (edge > 0) == (background == "#ffffff")


def test_light_wrap_of_a_blurred_background() -> None:
    frame, matte = scene(spill=0)
    plain, lit = (composite(frame, matte, "blur", light_wrap=x) for x in (0, 1))
    difference = lit.planes[2].astype(int) - plain.planes[2]
    assert difference[72, 128 + 42] < -4  # the green room has less red than skin
    assert difference[72, 128] == 0


def test_light_wrap_is_a_mix_by_the_blurred_share() -> None:
    alpha = np.full((30, 40), 0.25, np.float32)
    people, light = np.zeros((3, 30, 40), np.float32), np.ones((3, 30, 40), np.float32)
    np.testing.assert_allclose(wrapped(people, light, alpha, 0.4), 0.3, atol=1e-5)


def test_a_picture_behind_gives_its_own_light(tmp_path: Path) -> None:
    path = tmp_path / "behind.png"
    half = np.zeros((90, 160, 3), np.uint8)
    half[:, 80:] = 255
    cv2.imwrite(str(path), half)
    frame, matte = scene(spill=0)
    scene_behind = open_background(path)
    plain, lit = (compose(frame, matte, scene_behind, look=Look(light_wrap=x)) for x in (0, 1))
    difference = lit.frame.planes[0].astype(int) - plain.frame.planes[0]
    assert difference[72, 128 + 42] > 4 and difference[72, 128 - 42] < -4


def test_the_foreground_output_has_no_light_of_the_background() -> None:
    frame, matte = scene(spill=0)
    results = [
        compose(frame, matte, open_background("#ffffff"), look=look, with_foreground=True)
        for look in (Look(), Look(light_wrap=1))
    ]
    planes = [result.foreground.planes for result in results if result.foreground]
    for a, b in zip(*planes, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", ["light_wrap", "despill"])
def test_a_strength_that_cannot_be(name: str, value: float) -> None:
    frame, matte = scene(spill=0)
    with pytest.raises(UsageError, match=name.replace("_", " ")):
        composite(frame, matte, "green", **{name: value})
