"""Cuts, gaps and flicker: on made-up mattes, and on a real video with a cut in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fusematte.engine.frame import Frame, Matte
from fusematte.engine.matting.continuity import Continuity
from fusematte.engine.matting.lost_parts import COST, CREDIT
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.smoothing import Lookahead, Smoother
from fusematte.engine.media.reader import Reader

HEIGHT, WIDTH = 36, 64


def scene(seed: int) -> NDArray[np.float32]:
    coarse = np.random.default_rng(seed).random((6, 8), np.float32)
    return coarse.repeat(6, 0).repeat(8, 1)


def matte(alpha: float, *, doubt: float, luma: NDArray[np.float32] | None = None) -> Matte:
    plane = np.full((HEIGHT, WIDTH), alpha, np.float32)
    picture = np.full((HEIGHT, WIDTH), 0.5, np.float32) if luma is None else luma
    return Matte(
        alpha=plane,
        foreground=np.full_like(plane, 0.5 + doubt / 2),
        background=np.full_like(plane, 0.5 + doubt / 2),
        beta=plane,
        color=np.stack([picture] * 3),
        pts=0,
        time_base=Fraction(1),
    )


def test_a_cut_and_a_gap_break_and_movement_does_not() -> None:
    continuity = Continuity()
    one, other = scene(1), scene(2)
    assert not continuity.breaks(one, Fraction(0))
    assert not continuity.breaks(np.roll(one, 2, 1), Fraction(1, 30))
    assert not continuity.breaks(np.clip(np.roll(one, 2, 1) * 1.05, 0, 1), Fraction(2, 30))
    assert continuity.breaks(other, Fraction(3, 30))
    assert not continuity.breaks(other, Fraction(4, 30))
    assert continuity.breaks(other, Fraction(2))
    assert continuity.breaks(other, Fraction(1))  # back in time: another video
    continuity.reset()
    assert not continuity.breaks(one, Fraction(9))


def run(smoother: Smoother | Lookahead, mattes: list[Matte]) -> list[NDArray[np.float32]]:
    done = [smoother(matte, follows=index > 0) for index, matte in enumerate(mattes)]
    return [matte.alpha for matte in done if matte is not None]


@pytest.mark.parametrize("make", [Smoother, lambda: Lookahead(2)])
def test_doubtful_flicker_in_a_still_picture_is_held(make: type[Smoother]) -> None:
    mattes = [matte(0.4 + 0.2 * (index % 2), doubt=0.5) for index in range(12)]
    alphas = run(make(), mattes)[3:-3]
    assert np.ptp(alphas) < 0.1  # of 0.2
    assert abs(np.mean(alphas) - 0.5) < 0.03


@pytest.mark.parametrize("make", [Smoother, lambda: Lookahead(2)])
def test_what_the_decoders_agree_on_is_left_alone(make: type[Smoother]) -> None:
    mattes = [matte(0.4 + 0.2 * (index % 2), doubt=0) for index in range(6)]
    for got, given in zip(run(make(), mattes), mattes, strict=False):
        np.testing.assert_allclose(got, given.alpha, atol=1e-6)


@pytest.mark.parametrize("make", [Smoother, lambda: Lookahead(2)])
def test_what_moves_does_not_lag(make: type[Smoother]) -> None:
    # A person enters: the picture changes, alpha with it, and the decoders are in doubt.
    dark, bright = (np.full((HEIGHT, WIDTH), value, np.float32) for value in (0.3, 0.6))
    mattes = [matte(0.0, doubt=0.5, luma=dark)] * 4 + [matte(1.0, doubt=0.5, luma=bright)] * 4
    alphas = run(make(), mattes)
    assert alphas[3].max() < 1e-3
    assert alphas[4].min() > 1 - 1e-3


def test_lookahead_delays_and_stays_within_the_scene() -> None:
    ahead = Lookahead(2)
    before, after = matte(0.2, doubt=0.5), matte(0.8, doubt=0.5)
    given = [(before, False), (before, True), (after, False), (after, True), (after, True)]
    done = [ahead(item, follows=follows) for item, follows in given]
    assert done[:2] == [None, None]
    for got, expected in zip(done[2:], (0.2, 0.2, 0.8), strict=True):
        assert got is not None
        np.testing.assert_allclose(got.alpha, expected, atol=1e-6)


def waving(
    shifts: list[int], lost: range, *, vanishes: bool = False, comes_at: int = 0
) -> list[Matte]:
    """A hand that moves by so many pixels each frame over a textured wall; the network loses it in
    the frames ``lost``, and with ``vanishes`` it is gone in them indeed."""
    wall = np.random.default_rng(0).random((2 * HEIGHT, 2 * WIDTH), np.float32) * 0.1 + 0.2
    hand = np.random.default_rng(1).random((8, 10), np.float32) * 0.3 + 0.6
    mattes = []
    for index, column in enumerate(np.cumsum(shifts)):
        luma, alpha, place = wall.copy(), np.zeros_like(wall), np.s_[12:20, column : column + 10]
        if not (vanishes and index in lost):
            luma[place] = hand
        if index not in lost and index >= comes_at:
            alpha[place] = 1
        maps = {"alpha": alpha, "foreground": alpha, "background": 1 - alpha, "beta": alpha}
        mattes.append(replace(matte(0, doubt=0), **maps, color=np.stack([luma] * 3)))
    return mattes


def test_a_hand_that_the_network_loses_for_a_moment_is_held_where_it_moves() -> None:
    shifts = [4] + [2] * 19
    mattes, whole = waving(shifts, range(12, 15)), waving(shifts, range(0))
    for index, (got, wanted) in enumerate(zip(run(Smoother(), mattes), whole, strict=True)):
        np.testing.assert_allclose(got, wanted.alpha, atol=0.02, err_msg=str(index))


def test_a_hand_that_stays_lost_is_let_go() -> None:
    alphas = run(Smoother(), waving([30] + [0] * 49, range(30, 50)))
    held = [index for index, alpha in enumerate(alphas) if index >= 30 and alpha.max() > 0.5]
    assert held == list(range(30, 30 + CREDIT // COST))


def test_a_hand_that_goes_is_not_held() -> None:
    alphas = run(Smoother(), waving([30] + [0] * 19, range(15, 20), vanishes=True))
    assert max(alpha.max() for alpha in alphas[15:]) < 0.1


def test_what_has_only_just_come_up_is_not_held() -> None:
    alphas = run(Smoother(), waving([30] + [0] * 19, range(11, 20), comes_at=10))
    assert alphas[10].max() == 1
    assert max(alpha.max() for alpha in alphas[11:]) < 0.1


def test_smoothing_survives_a_change_of_the_networks_size() -> None:
    smoother = Smoother()
    smoother(matte(0.4, doubt=0.5), follows=False)
    half = matte(0.6, doubt=0.5)
    small = replace(
        half,
        **{k: getattr(half, k)[..., ::2, ::2] for k in ("alpha", "foreground", "background")},
        color=half.color[:, ::2, ::2],
    )
    done = smoother(small, follows=True)
    assert done.alpha.shape == (HEIGHT // 2, WIDTH // 2)
    assert np.all((done.alpha > 0.41) & (done.alpha < 0.55))


def test_a_cut_between_two_real_scenes_resets_and_the_scenes_do_not(shared_clips: Path) -> None:
    with Matter() as matter:
        matter.scale = 0.31
        breaks = []
        for number, name in enumerate(("m1.mp4", "juggle.mp4")):
            with Reader(shared_clips / name) as reader:
                for index, frame in zip(range(6), reader, strict=False):
                    # One after the other, as one video.
                    count = number * 6 + index
                    shown = replace(frame, pts=count, time_base=Fraction(1, 30))
                    matter(shown)
                    if not matter.follows:
                        breaks.append(count)
    assert breaks == [0, 6]


def real_mattes(matter: Matter, frames: Iterable[Frame]) -> list[tuple[Matte, bool]]:
    return [(matter(frame), matter.follows) for frame in frames]


def test_a_real_part_that_is_lost_is_held(shared_clips: Path) -> None:
    with Matter() as matter, Reader(shared_clips / "m1.mp4") as reader:
        matter.scale = 0.31
        mattes = real_mattes(matter, itertools.islice(reader, 16))
    height, width = mattes[0][0].alpha.shape
    # The head of the policeman who walks on the right.
    head = np.s_[0 : height * 2 // 9, width * 4 // 5 : width * 19 // 20]
    assert all(found.alpha[head].mean() > 0.2 for found, _ in mattes)
    smoother, worst = Smoother(), 0.0
    for index, (found, follows) in enumerate(mattes):
        broken = found.alpha.copy()
        if index in range(10, 13):  # two frames later a lamp above him is taken for a part of him
            broken[head] = 0
        shown = smoother(replace(found, alpha=broken), follows=follows).alpha
        worst = max(worst, float(np.abs(shown - found.alpha)[head].mean()))
    assert worst < 0.15  # of 0.37, were it not held


def cropped(frame: Frame, left: int, width: int) -> Frame:
    y, u, v = frame.planes
    half = np.s_[:, left // 2 : (left + width) // 2]
    return frame.with_planes((y[:, left : left + width], u[half], v[half]))


def test_somebody_real_enters_and_leaves(shared_clips: Path) -> None:
    """A camera that pans to a person and on: the smoothed alpha is that of a network without a
    memory, and nothing of the person stays behind."""
    with Reader(shared_clips / "juggle.mp4") as reader:
        frames = list(itertools.islice(reader, 24))
    width = frames[0].width // 5 * 2
    lefts = np.linspace(0, frames[0].width - width, len(frames)).astype(int) // 2 * 2
    panned = [cropped(frame, left, width) for frame, left in zip(frames, lefts, strict=True)]
    with Matter() as matter, Matter() as fresh:
        # At the smallest scale the network without a memory loses the person in one frame.
        matter.scale = fresh.scale = 0.5
        smoother, areas, alone = Smoother(), [], []
        for frame in panned:
            found = matter(frame)
            areas.append(float(smoother(found, follows=matter.follows).alpha.mean()))
            fresh.reset()
            alone.append(float(fresh(frame).alpha.mean()))
    assert min(alone[0], alone[-1]) < 0.02 and max(alone) > 0.1
    assert np.abs(np.subtract(areas, alone)).max() < 0.03, (areas, alone)
