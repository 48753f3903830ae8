"""The network on some frames, the motion on the others."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.matting.balls import HEIGHT, WIDTH, ball, disc, says
from tests.engine.matting.mattes import turned
from tests.peers import HookedMatter, Infer

from fusematte.engine.backends import Maps
from fusematte.engine.frame import Frame, Map
from fusematte.engine.matting.key_frames import KeyFrames, Made
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Prompt


def told(
    matter: HookedMatter, shots: list[tuple[Frame, Map]], every: int
) -> tuple[list[Made], list[bytes], list[bytes]]:
    """What comes of frames whose alphas the network knows: the results, what it saw of every
    frame, and what it was asked."""
    size = matter.size_for(shots[0][0])
    assert size == (HEIGHT, WIDTH)
    seen = [matter.see(frame).image.tobytes() for frame, _ in shots]
    matter.reset()
    asked: list[bytes] = []
    alphas = dict(zip(seen, (alpha for _, alpha in shots), strict=True))
    matter.hook = says(alphas, asked)  # type: ignore[assignment]
    return every_frame(matter, [frame for frame, _ in shots], every), seen, asked


def every_frame(matter: Matter, frames: list[Frame], every: int) -> list[Made]:
    key_frames = KeyFrames(every)
    ready = [made for frame in frames for made in key_frames(matter, frame)]
    return ready + key_frames.drain(matter)


def test_each_frame_a_key_frame_is_what_the_matter_does(matter: HookedMatter) -> None:
    frames = [ball(index, 5)[0] for index in range(4)]
    made = every_frame(matter, frames, 1)
    matter.reset()
    for one, frame in zip(made, frames, strict=True):
        expected = matter(frame)
        np.testing.assert_array_equal(one.matte.alpha, expected.alpha)
        assert one.follows == matter.follows


def test_what_moves_is_followed_between_key_frames(matter: HookedMatter) -> None:
    shots = [ball(index, 4) for index in range(9)]
    made, seen, asked = told(matter, shots, 8)
    # The first frame is asked twice: the second time with what was said the first time.
    assert [seen.index(one) for one in asked] == [0, 0, 4, 8]
    for one, (frame, alpha) in zip(made, shots, strict=True):
        # An edge that is off by a pixel on average makes 2 pi 60 / (288 * 512) = 0.0026.
        assert np.abs(one.matte.alpha - alpha).mean() < 0.0026
        assert one.matte.pts == frame.pts
    assert np.abs(shots[2][1] - shots[0][1]).mean() > 0.01  # if it were not followed


@pytest.mark.parametrize(("step", "keys"), [(0.25, [0, 8, 16]), (8, [0, 4, 8, 12, 16])])
def test_more_are_key_frames_where_much_moves(
    matter: HookedMatter, step: float, keys: list[int]
) -> None:
    made, seen, asked = told(matter, [ball(index, step) for index in range(17)], 8)
    assert [seen.index(one) for one in asked] == [0, *keys]
    assert len(made) == 17


def test_the_maps_between_hold_the_fusion_equation(matter: HookedMatter) -> None:
    made, *_ = told(matter, [ball(index, 4) for index in range(5)], 4)
    for one in made:
        alpha, f, b, beta = (
            one.matte.alpha, one.matte.foreground, one.matte.background, one.matte.beta,
        )  # fmt: skip
        np.testing.assert_allclose(beta * f + (1 - beta) * (1 - b), alpha, atol=1e-5)
        assert 0 <= beta.min() <= beta.max() <= 1


def test_where_both_sides_contradict_each_other_the_network_is_asked(
    matter: HookedMatter,
) -> None:
    """A ball that is too quick to be found again."""
    shots = [ball(index, 50) for index in range(5)]
    made, seen, asked = told(matter, shots, 8)
    assert [seen.index(one) for one in asked][:4] == [0, 0, 4, 2]
    for index in (0, 2, 4):
        np.testing.assert_array_equal(made[index].matte.alpha, shots[index][1])
    assert matter.memory is not None
    np.testing.assert_array_equal(matter.memory.alpha, made[-1].matte.alpha)


def test_where_only_the_network_changed_its_mind_it_is_not_asked_again(
    matter: HookedMatter,
) -> None:
    """A still picture, of which it says something else from the middle on."""
    shots = [(ball(0, 0)[0], disc(120, 120) * (index < 3)) for index in range(5)]
    shots = [(replace(frame, pts=index), alpha) for index, (frame, alpha) in enumerate(shots)]
    for index, (frame, _) in enumerate(shots):
        frame.planes[0][0, index] ^= 255  # for the network to tell the pictures apart
    _, seen, asked = told(matter, shots, 4)
    assert [seen.index(one) for one in asked] == [0, 0, 4]


def test_nothing_is_followed_over_a_cut(matter: HookedMatter) -> None:
    before = [ball(index, 4) for index in range(3)]
    after = [(replace(ball(i, 4, seed=7)[0], pts=i), ball(i, 4, seed=7)[1]) for i in range(3, 6)]
    for frame, _ in after:
        for plane in frame.planes[:1]:
            plane[:] = 255 - plane // 2
    made, seen, asked = told(matter, [*before, *after], 4)
    assert [seen.index(one) for one in asked] == [0, 0, 2, 3, 3, 5]
    assert [one.follows for one in made] == [False, True, True, False, True, True]


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 11), every=st.integers(1, 8))
def test_every_frame_comes_out_once_and_in_order(
    shared_matter: HookedMatter, count: int, every: int
) -> None:
    shared_matter.reset()
    shared_matter.hook = lambda _network, image, _previous: Maps(
        *(np.zeros(image.shape[2:], np.float32) for _ in range(4))
    )
    frame = ball(0, 0)[0]
    frames = [replace(frame, pts=index) for index in range(count)]
    made = every_frame(shared_matter, frames, every)
    assert [one.frame.pts for one in made] == [one.matte.pts for one in made] == [*range(count)]


def test_a_choice_is_followed_from_frame_to_frame(matter: HookedMatter) -> None:
    frames = [ball(index, 4)[0] for index in range(6)]
    matter.choose([Prompt(kind="keep", place=(0.25, 0.5))])
    calls = itertools.count()

    def network(infer: Infer, image: Map, previous: Map) -> Maps:
        next(calls)
        return infer(image, previous)

    matter.hook = network
    assert len(every_frame(matter, frames, 4)) == 6
    assert next(calls) == 7


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_video_is_followed_alike(matter: HookedMatter, rotation: int) -> None:
    """A frame that a camera stores turned gives the turned matte."""
    upright = [ball(index, 4)[0] for index in range(5)]
    expected = every_frame(matter, upright, 4)
    matter.reset()
    got = every_frame(matter, [turned(frame, rotation) for frame in upright], 4)
    for one, other in zip(got, expected, strict=True):
        alpha = np.rot90(other.matte.alpha, rotation // 90)
        # The flow is searched from the upper left, so a turned picture's differs a little.
        assert np.abs(one.matte.alpha - alpha).mean() < 0.002
