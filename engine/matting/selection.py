"""Prompts: what a user asks to keep or to drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

import numpy as np

from fusematte.engine.errors import UsageError
from fusematte.engine.frame import Map

Kind = Literal["keep", "drop", "box", "mask", "everybody", "nobody"]


DISC = 0.03
"""Radius of a click, as a share of the picture's height."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Something to keep or to drop.

    kind: ``keep`` or ``drop``: a click on it; ``box``: keep what is in it; ``mask``: keep what is
    in ``mask``, [h, w], float32, 0..1, of any size; ``everybody``: everybody is kept from there on;
    ``nobody``: nothing that is seen there is kept.
    place: x, y of a click, or x, y, width, height of a box, from the upper left corner of the
    picture as it is displayed: shares of its width and height where none is above 1, or pixels.
    time: seconds from the video's beginning; None: the first frame that comes.
    """

    kind: Kind
    place: tuple[float, ...] = ()
    time: Fraction | None = None
    mask: Map | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        counts = {"keep": 2, "drop": 2, "box": 4}
        if len(self.place) != counts.get(self.kind, 0):
            raise UsageError(f"{self}: needs {counts.get(self.kind, 0)} numbers")
        if not all(np.isfinite(value) and value >= 0 for value in self.place):
            raise UsageError(f"{self}: lies outside the picture")
        if self.kind == "box" and 0 in self.place[2:]:
            raise UsageError(f"{self}: is empty")

    def __str__(self) -> str:
        place = ",".join(f"{value:g}" for value in self.place)
        time = "" if self.time is None else f"@{float(self.time):g}"
        return f"{self.kind} {place}{time}"

    def within(self, height: int, width: int) -> Prompt:
        """The same with its place in shares of a picture of this size.

        Raises:
            UsageError: it lies outside the picture.
        """
        if max(self.place, default=0.0) <= 1:
            inside = self
        else:
            sides = (width, height) * 2
            place = tuple(v / side for v, side in zip(self.place, sides, strict=False))
            inside = replace(self, place=place)
        ends = inside.place[:2]
        if self.kind == "box":
            x, y, across, down = inside.place
            ends = x + across, y + down
        if max(ends, default=0.0) > 1 + 1e-6:
            raise UsageError(f"{self}: lies outside the picture, which is {width}x{height}")
        return inside


Selection = tuple[Prompt, ...]
"""Prompts, in any order; without any, everybody is kept."""


def check(
    selection: Sequence[Prompt],
    size: tuple[int, int],
    start: Fraction | None = None,
    end: Fraction | None = None,
) -> Selection:
    """The prompts in the order of their times, their places in shares of the picture.

    Args:
        size: (height, width) of the picture as it is displayed.
        start, end: the part of the video that is processed, in seconds; None where unknown.

    Raises:
        UsageError: one lies outside the picture or these times, or two contradict each other.
    """
    height, width = size
    inside = [prompt.within(height, width) for prompt in selection]
    for prompt in inside:
        if prompt.time is None:
            continue
        if start is not None and prompt.time < start:
            raise UsageError(f"{prompt}: the job begins later, at {float(start):g} s")
        if end is not None and prompt.time >= end:
            raise UsageError(f"{prompt}: the video ends before, at {float(end):.3f} s")
    inside.sort(key=lambda prompt: prompt.time or start or Fraction(0))
    _refuse_contradictions(inside, width / height)
    return tuple(inside)


def _refuse_contradictions(selection: Sequence[Prompt], aspect: float) -> None:
    kept = [prompt for prompt in selection if prompt.kind == "keep"]
    for drop in (prompt for prompt in selection if prompt.kind == "drop"):
        for keep in kept:
            x, y = (a - b for a, b in zip(keep.place, drop.place, strict=True))
            if keep.time == drop.time and (x * aspect) ** 2 + y**2 < (2 * DISC) ** 2:
                raise UsageError(f"{keep} and {drop} contradict each other")
