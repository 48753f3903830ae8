"""A choice of who is kept: what prompts point at, who is followed, and where it cannot be.

Most of it runs on scenes of coloured blocks, whose matte is known; the last tests run the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from fusematte.engine.errors import UsageError
from fusematte.engine.frame import Frame, Map
from fusematte.engine.matting import choice as module
from fusematte.engine.matting.choice import Choice
from fusematte.engine.matting.following import Followed
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Prompt, check
from fusematte.engine.matting.stills import matte_picture
from fusematte.engine.pixels.color import frame_from_rgb

H, W = 96, 160
RED, BLUE, GREEN = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9), (0.1, 0.9, 0.1)
Block = tuple[int, tuple[float, float, float]]


def click(kind: str, x: float, y: float, time: float | None = None) -> Prompt:
    when = None if time is None else Fraction(str(time))
    return Prompt(kind=kind, place=(x, y), time=when)  # type: ignore[arg-type]


class Video:
    """Upright blocks before a gray wall, seen frame by frame; green ones are things, the others
    people.  Everything has a grain, by which its motion is seen."""

    def __init__(self, choice: Choice | None = None) -> None:
        self.choice = choice or Choice()
        self._grain = np.random.default_rng(0).uniform(-0.08, 0.08, (H, 4 * W)).astype(np.float32)
        self._count = 0

    def see(
        self, *blocks: Block, prompts: tuple[Prompt, ...] = (), cut: bool = False
    ) -> Map | None:
        image = (
            np.full((3, H, W), 0.5, np.float32) + cv2.GaussianBlur(self._grain, (0, 0), 1)[:, :W]
        )
        everybody = np.zeros((H, W), np.float32)
        for left, color in blocks:
            place = np.s_[30:90, max(0, left) : left + 24]
            own = self._grain[:, int(100 * color[0]) :][place[0], : everybody[place].shape[1]]
            image[:, *place] = np.array(color, np.float32)[:, None, None] + own
            everybody[place] = color != GREEN
        image = np.clip(image, 0, 1)[None].astype(np.float32)
        follows = self._count > 0 and not cut
        self._count += 1
        return self.choice.alpha(image, everybody, list(prompts), follows=follows)


def columns(alpha: Map | None) -> set[int]:
    """The quarters of the picture in which something is kept."""
    assert alpha is not None
    return {int(column) // 40 for column in np.flatnonzero((alpha > 0.5).any(0))}


LEFT, RIGHT = (10, RED), (90, BLUE)
ON_LEFT, ON_RIGHT = (0.14, 0.6), (0.63, 0.6)
KEEP_LEFT = click("keep", *ON_LEFT)


def test_nothing_chosen_is_nothing_done() -> None:
    video = Video()
    assert not video.choice.concerns
    assert video.see(LEFT, RIGHT) is None


def test_who_is_clicked_on_is_followed_and_nobody_else() -> None:
    video = Video()
    alpha = video.see(LEFT, RIGHT, prompts=(KEEP_LEFT,))
    assert columns(alpha) == {0}
    np.testing.assert_array_equal(alpha[34:86, 14:30], 1)  # type: ignore[index]
    for step in range(1, 12):  # they swap halves, out of the other's way at last
        alpha = video.see((10 + 3 * step, RED), RIGHT)
    assert columns(alpha) == {1}


def test_who_is_kept_stays_himself_while_somebody_crosses_before_him() -> None:
    for front in (RED, BLUE):
        video = Video()
        for step in range(31):
            blocks = [(10 + 3 * step, RED), (110 - 3 * step, BLUE)]
            blocks.sort(key=lambda block: block[1] == front)
            prompts = (KEEP_LEFT,) if step == 0 else ()
            alpha = video.see(*blocks, prompts=prompts)
        assert columns(alpha) == {2, 3}, front


def test_who_enters_later_is_not_kept() -> None:
    video = Video()
    video.see(LEFT, prompts=(KEEP_LEFT,))
    for left in range(150, 100, -5):
        alpha = video.see(LEFT, (left, BLUE))
        assert columns(alpha) == {0} and video.choice.doubt == ""


def test_who_is_lost_is_found_again_by_his_colours() -> None:
    video = Video()
    video.see(LEFT, RIGHT, prompts=(KEEP_LEFT,))
    for _ in range(3):
        gone = video.see(RIGHT)
        assert gone is not None and gone.max() == 0 and video.choice.doubt == module.LOST
    assert columns(video.see((125, RED), (50, BLUE))) == {3}
    assert columns(video.see((125, RED), (50, BLUE))) == {3} and video.choice.doubt == ""


def test_a_thing_is_cut_out_at_a_click_or_in_a_box_and_moves() -> None:
    box = Prompt(kind="box", place=(0.02, 0.25, 0.25, 0.72))
    for prompt in (KEEP_LEFT, box):
        video = Video()
        alpha = video.see((10, GREEN), RIGHT, prompts=(prompt,))
        truth = np.zeros((H, W), bool)
        truth[30:90, 10:34] = True
        for step in range(16):
            assert alpha is not None
            wrong = float(((alpha > 0.5) != np.roll(truth, 2 * step, 1)).mean())
            assert wrong < 0.02, (prompt, step)
            alpha = video.see((12 + 2 * step, GREEN), RIGHT)


def test_a_drop_alone_keeps_the_others() -> None:
    assert columns(Video().see(LEFT, RIGHT, prompts=(click("drop", *ON_LEFT),))) == {2}


def test_corrections_change_what_is_kept() -> None:
    video = Video()
    video.see(LEFT, RIGHT, (130, GREEN), prompts=(KEEP_LEFT,))
    both = video.see(LEFT, RIGHT, (130, GREEN), prompts=(click("keep", *ON_RIGHT),))
    assert columns(both) == {0, 2}
    more = video.see(LEFT, RIGHT, (130, GREEN), prompts=(click("keep", 0.88, 0.6),))
    assert columns(more) == {0, 2, 3}
    fewer = (click("drop", *ON_LEFT), click("drop", 0.88, 0.6))
    assert columns(video.see(LEFT, RIGHT, (130, GREEN), prompts=fewer)) == {2}


def test_two_who_touch_are_told_apart() -> None:
    """By the narrow place between them, or by a click on each."""
    people = np.zeros((H, W), np.float32)
    cv2.circle(people, (40, 60), 28, 1.0, -1)
    cv2.circle(people, (94, 60), 28, 1.0, -1)
    image = np.full((1, 3, H, W), 0.5, np.float32)
    image[0, :, :, :67] = np.array(RED, np.float32)[:, None, None]
    alpha = Choice().alpha(image, people, [click("keep", 0.25, 0.6)], follows=False)
    assert columns(alpha) == {0, 1}
    block = np.zeros((H, W), np.float32)
    block[30:90, 20:110] = 1
    clicks = [click("keep", 0.25, 0.6), click("drop", 0.6, 0.6)]
    alpha = Choice().alpha(image, block, clicks, follows=False)
    assert alpha is not None
    assert alpha[60, 55] == 1 and alpha[60, 75] == 0


def test_boxes_and_masks_choose_people() -> None:
    box = Prompt(kind="box", place=(0.55, 0.25, 0.2, 0.7))
    assert columns(Video().see(LEFT, RIGHT, prompts=(box,))) == {2}
    mask = np.zeros((2 * H, 2 * W), np.float32)
    mask[60:180, 20:68] = 1
    mask[60:180, 270:310] = 1
    video = Video()
    assert columns(video.see(LEFT, RIGHT, prompts=(Prompt(kind="mask", mask=mask),))) == {0, 3}
    assert columns(video.see(LEFT, RIGHT)) == {0, 3}
    assert columns(video.see(LEFT, RIGHT, prompts=(Prompt(kind="nobody"),))) == set()


def test_after_a_cut_the_chosen_is_found_or_everybody_is_kept_and_it_is_told() -> None:
    video = Video()
    video.see(LEFT, RIGHT, prompts=(KEEP_LEFT,))
    assert columns(video.see((90, RED), (10, BLUE), cut=True)) == {2}
    assert video.see(RIGHT, cut=True) is None
    assert video.choice.doubt == module.NOT_AGAIN and not video.choice.known.holds
    assert video.see(RIGHT) is None
    assert video.choice.doubt == ""
    assert columns(video.see(LEFT, RIGHT, cut=True)) == {0}  # back at a later cut


def test_after_a_cut_a_thing_is_gone_and_it_is_told() -> None:
    video = Video()
    video.see((10, GREEN), RIGHT, prompts=(KEEP_LEFT,))
    assert columns(video.see((10, GREEN), RIGHT)) == {0}
    assert video.see((10, GREEN), RIGHT, cut=True) is None
    assert video.choice.doubt == module.NOT_AGAIN and not video.choice.known.holds


def test_two_that_look_alike_are_doubted() -> None:
    video = Video()
    video.see(LEFT, prompts=(KEEP_LEFT,))
    video.see(LEFT, (90, RED), cut=True)
    assert video.choice.doubt == module.TWO


def test_a_click_on_nothing_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    nothing = np.full((1, 3, H, W), 0.5, np.float32)
    choice = Choice()
    prompts = [click("keep", 0.45, 0.1)]
    assert choice.alpha(nothing, np.zeros((H, W), np.float32), prompts, follows=False) is None
    assert choice.doubt == module.MISSED and not choice.known.holds
    assert "nothing was found there" in caplog.text


def test_a_speck_under_a_click_is_not_taken_for_somebody_else() -> None:
    image = np.full((1, 3, H, W), 0.5, np.float32)
    image[0, 0, 30:90, 90:114] = 0.9
    everybody = np.zeros((H, W), np.float32)
    everybody[30:90, 90:114] = 1
    everybody[58, 20:24] = 1
    prompt = [click("keep", 22 / W, 58 / H)]
    assert Choice().alpha(image, everybody, prompt, follows=False) is None


def test_everybody_is_kept_again() -> None:
    video = Video()
    video.see(LEFT, RIGHT, prompts=(KEEP_LEFT,))
    assert video.see(LEFT, RIGHT, prompts=(Prompt(kind="everybody"),)) is None
    assert not video.choice.concerns


def test_a_view_of_another_size_and_a_saved_state_go_on() -> None:
    video = Video()
    video.see(LEFT, RIGHT, prompts=(KEEP_LEFT,))
    saved = video.choice.known.saved()
    known = Followed.restored(saved.__getitem__)
    for ours, theirs in zip(known.saved().values(), saved.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    video.choice.known = known.resized(48, 80)
    assert columns(video.see(LEFT, RIGHT)) == {0}


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
def matter() -> Iterator[Matter]:
    with Matter(backend="openvino:cpu:f32", threads=1) as made:
        yield made


def frames(count: int = 4) -> list[Frame]:
    portrait = pytest.importorskip("skimage.data").astronaut()[:288, :]
    rolled = (np.ascontiguousarray(np.roll(portrait, 3 * index, 1)) for index in range(count))
    return [
        replace(frame_from_rgb(picture), pts=index, time_base=Fraction(1, 25))
        for index, picture in enumerate(rolled)
    ]


def test_an_empty_selection_changes_nothing(matter: Matter) -> None:
    with Matter(backend="openvino:cpu:f32", threads=1) as plain:
        matter.reset()
        matter.choose([])
        for frame in frames():
            expected, made = plain(frame), matter(frame)
            np.testing.assert_array_equal(made.alpha, expected.alpha)
            assert made.doubt == ""


def test_what_is_chosen_shows_at_once_and_not_before(matter: Matter) -> None:
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
