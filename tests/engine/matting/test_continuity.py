"""Cuts and gaps: made up, and in a real video."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from tests.engine.matting.mattes import scene

from fusematte.engine.matting.continuity import Continuity
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.reader import Reader


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
