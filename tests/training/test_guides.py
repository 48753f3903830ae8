"""Guides: what they say is true of the scene, and drawn by the engine's rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusematte.engine.matting.guide import BOX, UNDECIDED, carried
from fusematte.training.geometry import affine
from fusematte.training.guides import SceneSelection, choose, guide
from fusematte.training.scenes import CutOut, Layer, Scene

HEIGHT, WIDTH = 64, 112
LEVEL = round(255 * UNDECIDED)


def block(value: int, x: float, *, wanted: bool) -> Layer:
    colour = np.full((24, 20, 3), value, np.uint8)
    place = affine(np.eye(2), np.array([x, 20.0]))
    return Layer(CutOut(colour, np.full((24, 20), 255, np.uint8)), place, wanted=wanted)


def scene(*, inhabited: bool = False) -> Scene:
    """Two people and a thing between them, perhaps before somebody else's photograph."""
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:16, 40:70] = 255 * inhabited
    room = CutOut(np.full((HEIGHT, WIDTH, 3), 50, np.uint8), alpha)
    layers = [block(200, 5, wanted=True), block(90, 45, wanted=False), block(150, 85, wanted=True)]
    return Scene(HEIGHT, WIDTH, room, np.eye(3), layers)


def guides(choice: SceneSelection, time: float = -1, count: int = 200) -> list[np.ndarray]:  # type: ignore[type-arg]
    rngs = (np.random.default_rng(seed) for seed in range(count))
    return [guide(rng, choice, choice.everybody, time) for rng in rngs]


def test_keeping_changes_what_is_wanted_and_not_what_is_seen() -> None:
    everybody = scene(inhabited=True)
    for wanted in ({0}, {1}, {0, 2}, set[int]()):
        kept = everybody.keeping(wanted)
        np.testing.assert_array_equal(kept.view().image, everybody.view().image)
        inside = kept.view().alpha[30, [15, 55, 95]] == 255
        assert set(np.flatnonzero(inside)) == wanted
        assert kept.view().alpha[5, 50] == 0
    assert everybody.keeping((), room=True).view().alpha[5, 50] == 255


@pytest.mark.parametrize("inhabited", [False, True])
def test_everything_that_may_be_wanted_is_chosen_some_time(inhabited: bool) -> None:
    drawn = [choose(np.random.default_rng(seed), scene(inhabited=inhabited)) for seed in range(400)]
    wanted = {one.wanted for one in drawn}
    assert {
        frozenset(),
        frozenset({0}),
        frozenset({2}),
        frozenset({1}),
        frozenset({0, 2}),
    } <= wanted
    assert any(1 in one and len(one) > 1 for one in wanted)  # a person with a thing
    assert {one.room for one in drawn} == ({False, True} if inhabited else {False})


def test_prompts_lie_on_what_they_speak_of() -> None:
    choice = SceneSelection(scene(), frozenset({0}))
    levels, seen = set(), {"disc": 0, "box": 0, "drop": 0}
    for made in guides(choice):
        values = set(np.unique(made).tolist())
        levels |= values
        if LEVEL not in values:
            continue
        for row, column in np.argwhere(made == 255):
            assert 18 <= row < 46 and 3 <= column < 28  # the person's block and a disc's radius
        for _, column in np.argwhere(made == -255):
            assert column > 40
        seen["disc"] += 255 in values
        seen["box"] += round(255 * BOX) in values
        seen["drop"] += -255 in values
    assert all(count > 2 for count in seen.values())
    assert max(levels) == 255 and min(levels) == -255


def test_a_drop_alone_leaves_the_rest_as_it_is_without_a_choice() -> None:
    choice = SceneSelection(scene(), frozenset({0}))
    dropped = [made for made in guides(choice) if made.min() == -255 and (made == 0).mean() > 0.5]
    assert len(dropped) > 5
    for made in dropped:
        assert {int(column) > 80 for _, column in np.argwhere(made == -255)} == {True}
    # A thing that is kept has to be clicked on.
    things = SceneSelection(scene(), frozenset({1}))
    assert not any((made == 0).mean() > 0.5 for made in guides(things))


def test_what_follows_from_a_frame_is_the_engines_rule() -> None:
    choice = SceneSelection(scene(), frozenset({2}))
    truth = carried(choice.scene.alpha(-3) / 255)
    made = np.stack(guides(choice, -3)) / 255  # no prompts within a sequence
    assert np.abs(np.median(made, 0) - truth).mean() < 0.04
    assert (made == -1).mean() > 0.5
    assert np.abs(made - truth).mean(axis=(1, 2)).max() > 0.1  # but with mistakes


def test_a_choice_of_nobody_leaves_nothing_known() -> None:
    choice = SceneSelection(scene(), frozenset())
    assert choice.scene.view().alpha.max() == 0
    assert np.median(np.stack(guides(choice, -3))) == -255


def test_the_hidden_are_not_clicked_on() -> None:
    everybody = scene()
    hidden = replace(
        everybody, layers=[everybody.layers[0], replace(everybody.layers[0], wanted=False)]
    )
    for made in guides(SceneSelection(hidden, frozenset({0}))):
        assert (made == LEVEL).mean() < 0.5 and (made == 0).mean() < 0.5


def test_a_guide_depends_on_its_generator_alone() -> None:
    choice = SceneSelection(scene(), frozenset({0}))
    for one, other in zip(guides(choice, count=20), guides(choice, count=20), strict=True):
        np.testing.assert_array_equal(one, other)
