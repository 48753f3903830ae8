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
    seen = [matter.see(frame).image().tobytes() for frame, _ in shots]
    matter.reset()
    asked: list[bytes] = []
    alphas = dict(zip(seen, (alpha for _, alpha in shots), strict=True))
    matter.hook = says(alphas, asked)  # type: ignore[assignment]
    return every_frame(matter, [frame for frame, _ in shots], every), seen, asked


def told_apart(shots: list[tuple[Frame, Map]]) -> list[tuple[Frame, Map]]:
    """The shots, with a pixel of each picture changed, by which the network knows it."""
    changed = []
    for index, (frame, alpha) in enumerate(shots):
        planes = tuple(plane.copy() for plane in frame.planes)
        planes[0][0, index] ^= 255
        changed.append((replace(frame, planes=planes, pts=index), alpha))
    return changed


def every_frame(
    matter: Matter, frames: list[Frame], every: int, *, whole: bool = True
) -> list[Made]:
    key_frames = KeyFrames(every, whole=whole)
    ready = [made for frame in frames for made in key_frames(matter, frame)]
    return [*ready, *key_frames.drain(matter)]


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
    made, seen, asked = told(matter, shots, 16)
    # The first frame is asked twice: the second time with what was said the first time.
    assert [seen.index(one) for one in asked] == [0, 0, 4, 8]
    for one, (frame, alpha) in zip(made, shots, strict=True):
        # An edge that is off by a pixel on average makes 2 pi 60 / (288 * 512) = 0.0026.
        assert np.abs(one.matte.alpha - alpha).mean() < 0.0026
        assert one.matte.pts == frame.pts
    assert np.abs(shots[2][1] - shots[0][1]).mean() > 0.01  # if it were not followed


@pytest.mark.parametrize(
    ("step", "every", "keys"),
    [
        (0.1, 16, [0, 8, 24, 40, 48]),  # as foreseen, until the end
        (0.1, 8, [0, 4, 12, 20, 28, 36, 44, 48]),
        (8, 16, [0, 4, 12, 16]),  # much moves
    ],
)
def test_key_frames_are_as_far_apart_as_the_motion_allows(
    matter: HookedMatter, step: float, every: int, keys: list[int]
) -> None:
    shots = [ball(index, step) for index in range(keys[-1] + 1)]
    made, seen, asked = told(matter, shots, every)
    assert [seen.index(one) for one in asked] == [0, *keys]
    assert len(made) == len(shots)


def test_where_the_network_says_something_new_the_next_key_frame_is_nearer(
    matter: HookedMatter,
) -> None:
    """From the twelfth frame on it takes something else in a still picture."""
    still, alpha = ball(0, 0)
    shots = [(still, alpha if i < 12 else disc(180, 180)) for i in range(49)]
    _, seen, asked = told(matter, told_apart(shots), 16)
    assert [seen.index(one) for one in asked] == [0, 0, 8, 24, 32, 48]


def test_a_cut_begins_with_the_usual_distance(matter: HookedMatter) -> None:
    shots = [ball(index, 0.1) for index in range(10)]
    other = [ball(index, 0.1, seed=7) for index in range(20)]
    for frame, _ in other:
        frame.planes[0][:] = 255 - frame.planes[0] // 2
    _, seen, asked = told(matter, told_apart([*shots, *other]), 16)
    assert [seen.index(one) for one in asked] == [0, 0, 8, 9, 10, 10, 18, 29]


def test_what_comes_and_goes_between_far_key_frames_is_shown_to_the_network(
    matter: HookedMatter,
) -> None:
    """Key frames are 0, 8, 24: a second thing is there only in the frames around the 16th."""
    still, alpha = ball(0, 0)
    shots = []
    for index in range(25):
        frame = replace(still, planes=tuple(plane.copy() for plane in still.planes))
        if 13 < index < 19:
            frame.planes[0][100:160, 300:360] += 20
        shots.append((frame, alpha))
    _, seen, asked = told(matter, told_apart(shots), 16)
    assert [seen.index(one) for one in asked] == [0, 0, 8, 24, 16]


def test_large_frames_do_not_wait_for_a_far_key_frame(
    matter: HookedMatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots = [ball(index, 0.1) for index in range(25)]
    size = sum(plane.nbytes for plane in shots[0][0].planes)
    monkeypatch.setattr("fusematte.engine.matting.key_frames.HELD", 10 * size)
    _, seen, asked = told(matter, shots, 16)
    assert [seen.index(one) for one in asked] == [0, 0, 8, 18, 24]


def test_a_frame_is_matted_when_it_is_asked_for(matter: HookedMatter) -> None:
    """Else compositing would wait for all frames up to the key frame."""
    shots = [ball(index, 80) for index in range(5)]
    _, seen, asked = told(matter, shots, 16)
    assert [seen.index(one) for one in asked] == [0, 0, 4, 3]
    asked.clear()
    matter.reset()
    key_frames = KeyFrames(16)
    for frame, _ in shots[:-1]:
        list(key_frames(matter, frame))
    assert next(key_frames(matter, shots[-1][0])).frame is shots[1][0]
    assert [seen.index(one) for one in asked] == [0, 0, 4]


def test_the_maps_between_hold_the_fusion_equation(matter: HookedMatter) -> None:
    made, *_ = told(matter, [ball(index, 4) for index in range(5)], 8)
    for one in made:
        alpha, f, b, beta = (
            one.matte.alpha, one.matte.foreground, one.matte.background, one.matte.beta,
        )  # fmt: skip
        np.testing.assert_allclose(beta * f + (1 - beta) * (1 - b), alpha, atol=1e-5)
        assert 0 <= beta.min() <= beta.max() <= 1


@pytest.mark.parametrize("step", [4, 50])  # 50: the network is asked in between
def test_alphas_are_the_same_without_probabilities(matter: HookedMatter, step: int) -> None:
    shots = [ball(index, step) for index in range(7)]
    whole, *_ = told(matter, shots, 8)
    matter.reset()
    alone = every_frame(matter, [frame for frame, _ in shots], 8, whole=False)
    for one, other in zip(alone, whole, strict=True):
        np.testing.assert_array_equal(one.matte.alpha, other.matte.alpha)
        matte = one.matte
        fused = matte.beta * matte.foreground + (1 - matte.beta) * (1 - matte.background)
        np.testing.assert_allclose(fused, matte.alpha, atol=1e-5)


def test_where_both_sides_contradict_each_other_the_network_is_asked(
    matter: HookedMatter,
) -> None:
    """A ball that is too quick to be found again."""
    shots = [ball(index, 50) for index in range(5)]
    made, seen, asked = told(matter, shots, 16)
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
    _, seen, asked = told(matter, told_apart(shots), 8)
    assert [seen.index(one) for one in asked] == [0, 0, 4]


def test_nothing_is_followed_over_a_cut(matter: HookedMatter) -> None:
    before = [ball(index, 4) for index in range(3)]
    after = [(replace(ball(i, 4, seed=7)[0], pts=i), ball(i, 4, seed=7)[1]) for i in range(3, 6)]
    for frame, _ in after:
        for plane in frame.planes[:1]:
            plane[:] = 255 - plane // 2
    made, seen, asked = told(matter, [*before, *after], 8)
    assert [seen.index(one) for one in asked] == [0, 0, 2, 3, 3, 5]
    assert [one.follows for one in made] == [False, True, True, False, True, True]


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 40), every=st.integers(1, 16))
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
    assert len(every_frame(matter, frames, 8)) == 6
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
