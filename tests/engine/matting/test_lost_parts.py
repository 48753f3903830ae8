"""Hands that the network loses for a moment: made up, and in a real video."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.engine.matting.mattes import HEIGHT, WIDTH, matte, real_mattes, run

from fusematte.engine.frame import Matte
from fusematte.engine.matting.lost_parts import COST, CREDIT
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.smoothing import Smoother
from fusematte.engine.media.reader import Reader


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
