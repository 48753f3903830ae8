"""A choice of who is kept: which guides reach the network, and what is made of its answers.

A network that is easily foretold stands behind most of these: it keeps what its guide does not
forbid, so that the rules show and not what was learnt.  The last ones run the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from tests.choices import signed_model

from fusematte.engine.backends import Maps
from fusematte.engine.errors import ModelError, UsageError
from fusematte.engine.frame import Frame, Map
from fusematte.engine.matting import choice as module
from fusematte.engine.matting.choice import Choice
from fusematte.engine.matting.guide import BOX, DISC, DROP, KEEP, UNDECIDED, carried
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Prompt, check
from fusematte.engine.matting.stills import matte_picture
from fusematte.engine.pixels.color import frame_from_rgb

H, W = 96, 160
RED, BLUE, GREEN = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9), (0.1, 0.9, 0.1)


def click(kind: str, x: float, y: float, time: float | None = None) -> Prompt:
    when = None if time is None else Fraction(str(time))
    return Prompt(kind=kind, place=(x, y), time=when)  # type: ignore[arg-type]


def scene(*people: tuple[int, tuple[float, float, float]]) -> Map:
    """People as upright blocks of one colour before gray, at these columns: [1, 3, H, W]."""
    image = np.full((1, 3, H, W), 0.5, np.float32)
    for left, color in people:
        image[0, :, 30:90, left : left + 24] = np.array(color, np.float32)[:, None, None]
    return image


class Network:
    """Keeps each block that its guide does not forbid, if it is not green; where something is
    kept, only that."""

    def __init__(self) -> None:
        self.guides: list[Map] = []

    def __call__(self, image: Map, guide: Map) -> Maps:
        self.guides.append(guide[0, 0].copy())
        alpha = np.zeros((H, W), np.float32)
        chosen = bool((guide < 0).any() and guide.max() > 0)
        count, labels = _blocks(image)
        for label in range(1, count):
            block = labels == label
            best, worst = guide[0, 0][block].max(), guide[0, 0][block].min()
            thing = image[0, 1][block].mean() > 0.8
            if best > 0 if chosen else worst > -1 and not thing:
                alpha[block] = 1
        return Maps(alpha, alpha, 1 - alpha, alpha)


def _blocks(image: Map) -> tuple[int, np.ndarray]:  # type: ignore[type-arg]
    import cv2

    return cv2.connectedComponents((image[0].std(0) > 0.1).astype(np.uint8))


def columns(maps: Maps | None) -> set[int]:
    assert maps is not None
    return {int(c) // 40 for c in np.flatnonzero((maps.alpha > 0.5).any(0))}


TWO = (10, RED), (90, BLUE)


def test_nothing_chosen_is_nothing_done() -> None:
    choice, network = Choice(), Network()
    assert not choice.concerns
    assert choice.maps(scene(*TWO), None, [], network) is None
    assert network.guides == []


def test_a_click_is_a_disc_on_undecided_ground_and_its_answer_the_next_guide() -> None:
    choice, network = Choice(), Network()
    maps = choice.maps(scene(*TWO), None, [click("keep", 0.14, 0.6)], network)
    assert columns(maps) == {0}
    everybody, first, second = network.guides
    assert not everybody.any()
    assert maps is not None
    np.testing.assert_array_equal(first, carried(maps.alpha))
    np.testing.assert_array_equal(second, carried(maps.alpha))
    choice.maps(scene((12, RED), (88, BLUE)), maps.alpha, [], network)
    np.testing.assert_array_equal(network.guides[3], carried(maps.alpha))


def test_a_click_on_a_thing_is_a_disc_on_undecided_ground() -> None:
    choice, network = Choice(), Network()
    assert columns(choice.maps(scene((10, GREEN)), None, [click("keep", 0.14, 0.6)], network)) == {
        0
    }
    _, first, second = network.guides
    assert set(np.unique(first).tolist()) == {UNDECIDED, KEEP}
    radius = DISC * H
    assert (first == KEEP).sum() == pytest.approx(np.pi * radius**2, rel=0.35)
    assert first[int(0.6 * H), int(0.14 * W)] == KEEP
    assert set(np.unique(second).tolist()) == {DROP, KEEP}


def test_whoever_stands_apart_is_not_kept_whatever_the_network_says() -> None:
    class Generous(Network):
        def __call__(self, image: Map, guide: Map) -> Maps:
            return super().__call__(image, np.zeros_like(guide))

    choice, network = Choice(), Generous()
    maps = choice.maps(scene(*TWO), None, [click("keep", 0.14, 0.6)], network)
    assert columns(maps) == {0}
    assert maps is not None
    assert columns(choice.maps(scene(*TWO), maps.alpha, [], network)) == {0}


def test_a_drop_alone_keeps_the_others() -> None:
    choice, network = Choice(), Network()
    maps = choice.maps(scene(*TWO), None, [click("drop", 0.14, 0.6)], network)
    assert not network.guides[0].any()
    assert network.guides[1][58, 100] == KEEP and network.guides[1][58, 22] == DROP
    assert columns(maps) == {2}


def test_corrections_are_drawn_into_what_is_known() -> None:
    choice, network = Choice(), Network()
    image = scene(*TWO)
    maps = choice.maps(image, None, [click("keep", 0.14, 0.6)], network)
    assert maps is not None
    both = choice.maps(image, maps.alpha, [click("keep", 0.63, 0.6)], network)
    assert columns(both) == {0, 2}
    assert both is not None
    one = choice.maps(image, both.alpha, [click("drop", 0.14, 0.6)], network)
    assert network.guides[-1].max() == 1 and network.guides[-1][58, 22] == DROP
    assert one is not None


def test_boxes_and_masks() -> None:
    choice, network = Choice(), Network()
    box = Prompt(kind="box", place=(0.55, 0.25, 0.2, 0.7))
    assert columns(choice.maps(scene(*TWO), None, [box], network)) == {2}
    choice, network = Choice(), Network()
    assert columns(choice.maps(scene((90, GREEN)), None, [box], network)) == {2}
    assert set(np.unique(network.guides[1]).tolist()) == {UNDECIDED, BOX}
    mask = np.zeros((2 * H, 2 * W), np.float32)
    mask[60:180, 20:68] = 1
    choice, network = Choice(), Network()
    maps = choice.maps(scene(*TWO), None, [Prompt(kind="mask", mask=mask)], network)
    assert columns(maps) == {0}
    assert network.guides[0].min() == -1 and network.guides[0].max() == 1


def test_who_enters_later_is_not_kept_and_who_is_lost_is_found_again_by_his_colours() -> None:
    choice, network = Choice(), Network()
    maps = choice.maps(scene((10, RED)), None, [click("keep", 0.14, 0.6)], network)
    assert maps is not None
    maps = choice.maps(scene(*TWO), maps.alpha, [], network)
    assert columns(maps) == {0} and choice.doubt == ""
    assert maps is not None
    gone = choice.maps(scene((90, BLUE)), maps.alpha, [], network)
    assert gone is not None and gone.alpha.max() == 0 and choice.doubt == module.LOST
    gone = choice.maps(scene((90, BLUE)), gone.alpha, [], network)
    assert gone is not None and gone.alpha.max() == 0 and choice.doubt == module.LOST
    back = choice.maps(scene((10, BLUE), (90, RED)), gone.alpha, [], network)
    assert columns(back) == {2} and choice.doubt == ""


def test_after_a_cut_the_chosen_is_found_or_everybody_is_kept_and_it_is_told() -> None:
    choice, network = Choice(), Network()
    choice.maps(scene(*TWO), None, [click("keep", 0.14, 0.6)], network)
    assert columns(choice.maps(scene((90, RED), (10, BLUE)), None, [], network)) == {2}
    assert choice.maps(scene((90, BLUE)), None, [], network) is None
    assert choice.doubt == module.NOT_AGAIN and not choice.known.holds
    assert choice.maps(scene((90, BLUE)), np.zeros((H, W), np.float32), [], network) is None
    assert choice.doubt == ""
    assert columns(choice.maps(scene(*TWO), None, [], network)) == {0}  # back at a later cut


def test_two_that_look_alike_are_doubted() -> None:
    choice, network = Choice(), Network()
    choice.maps(scene((10, RED)), None, [click("keep", 0.14, 0.6)], network)
    choice.maps(scene((10, RED), (90, RED)), None, [], network)
    assert choice.doubt == module.TWO


def test_a_click_on_nobody_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    choice, network = Choice(), Network()
    assert choice.maps(scene(*TWO), None, [click("keep", 0.45, 0.1)], network) is None
    assert choice.doubt == module.MISSED and not choice.known.holds
    assert "nothing was found there" in caplog.text


def test_everybody_is_kept_again() -> None:
    choice, network = Choice(), Network()
    maps = choice.maps(scene(*TWO), None, [click("keep", 0.14, 0.6)], network)
    assert maps is not None
    assert choice.maps(scene(*TWO), maps.alpha, [Prompt(kind="everybody")], network) is None
    assert not choice.concerns


def test_prompts_wait_for_their_time() -> None:
    choice = Choice()
    prompts = check([click("drop", 0.5, 0.5, 2), click("keep", 0.1, 0.1)], (H, W))
    choice.begin(prompts, Fraction(10))
    assert [one.kind for one in choice.due(Fraction(3))] == ["keep"]
    assert choice.due(Fraction("11.99")) == []
    assert choice.concerns
    assert [one.kind for one in choice.due(Fraction(12))] == ["drop"]
    choice.begin(prompts, Fraction(10))
    choice.skip(Fraction(11))
    assert [one.kind for one in choice.waiting] == ["drop"]


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (click("keep", 200, 10), "lies outside the picture, which is 160x96"),
        (click("keep", 0.5, 0.5, 9), "the video ends before, at 5.000 s"),
        (click("keep", 0.5, 0.5, 0.5), "the job begins later, at 1 s"),
        (Prompt(kind="box", place=(0.6, 0.6, 0.6, 0.2)), "lies outside the picture"),
    ],
)
def test_what_lies_outside_is_refused(prompt: Prompt, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check([prompt], (H, W), Fraction(1), Fraction(5))


@pytest.mark.parametrize("place", [(-0.1, 0.5), (float("nan"), 0.5), (0.5,), (0.1, 0.2, 0.3)])
def test_places_that_are_none(place: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="keep"):
        Prompt(kind="keep", place=place)


def test_contradictions_are_refused_and_neighbours_are_not() -> None:
    with pytest.raises(UsageError, match="contradict each other"):
        check([click("keep", 0.5, 0.5), click("drop", 0.51, 0.5)], (H, W))
    check([click("keep", 0.5, 0.5), click("drop", 0.6, 0.5)], (H, W))
    check([click("keep", 0.5, 0.5), click("drop", 0.5, 0.5, 2)], (H, W))  # a correction


def test_pixels_and_shares_are_the_same_place() -> None:
    assert click("keep", 80, 48).within(H, W).place == (0.5, 0.5)
    assert click("keep", 0.5, 1).within(H, W).place == (0.5, 1)


# --- with the real network ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matter]:
    model = signed_model(tmp_path_factory.mktemp("model") / "edge")
    with Matter(model, backend="openvino:cpu:f32", threads=1) as made:
        yield made


def frames(count: int = 4) -> list[Frame]:
    portrait = pytest.importorskip("skimage.data").astronaut()[:288, :]
    rolled = (np.ascontiguousarray(np.roll(portrait, 3 * index, 1)) for index in range(count))
    return [
        replace(frame_from_rgb(picture), pts=index, time_base=Fraction(1, 25))
        for index, picture in enumerate(rolled)
    ]


def test_a_model_that_has_not_learnt_it_says_so() -> None:
    with Matter(backend="openvino:cpu:f32", threads=1) as plain:
        if plain.bundle.takes_choice:
            pytest.skip("the shipped model follows choices")
        with pytest.raises(ModelError, match="has not learnt to follow a choice"):
            plain.choose([click("keep", 0.5, 0.5)])
        plain.choose([])


def test_an_empty_selection_changes_nothing(matter: Matter) -> None:
    with Matter(backend="openvino:cpu:f32", threads=1) as plain:
        matter.reset()
        matter.choose([])
        for frame in frames():
            expected, made = plain(frame), matter(frame)
            np.testing.assert_array_equal(made.alpha, expected.alpha)
            assert made.doubt == ""


def test_guides_reach_the_network_and_the_matte_differs(matter: Matter) -> None:
    def mattes(*prompts: Prompt) -> list[Map]:
        matter.reset()
        matter.choose(check(prompts, (288, 512)))
        return [matter(frame).alpha for frame in frames()]

    everybody, dropped = mattes(), mattes(click("drop", 0.42, 0.4))
    later = mattes(click("drop", 0.42, 0.4, 0.08))
    assert matter.follows  # the last one had no prompt
    matter.prompt(click("drop", 0.1, 0.1))
    matter(replace(frames(5)[4]))
    assert not matter.follows  # what a click changes is not smoothed over
    assert np.abs(everybody[0] - dropped[0]).max() > 0.1
    np.testing.assert_array_equal(later[1], everybody[1])
    assert np.abs(later[2] - everybody[2]).max() > 0.1


def test_it_goes_on_from_a_memory(matter: Matter) -> None:
    shown, prompts = frames(6), check([click("drop", 0.42, 0.4)], (288, 512))
    matter.reset()
    matter.choose(prompts)
    whole = []
    for frame in shown:
        whole.append(matter(frame).alpha)
        if frame.pts == 2:
            memory = matter.memory
    assert memory is not None
    matter.choose(prompts)
    matter.memory = memory
    for frame, expected in zip(shown[3:], whole[3:], strict=True):
        np.testing.assert_array_equal(matter(frame).alpha, expected)


def test_stills_take_a_selection(matter: Matter) -> None:
    picture = pytest.importorskip("skimage.data").astronaut()
    everybody = matte_picture(picture, matter)
    selected = matte_picture(picture, matter, selection=(click("drop", 0.42, 0.3),))
    assert np.abs(everybody.astype(int) - selected).max() > 25
    np.testing.assert_array_equal(matte_picture(picture, matter), everybody)
    with pytest.raises(UsageError, match="outside"):
        matte_picture(picture, matter, selection=(click("keep", 600, 3),))
