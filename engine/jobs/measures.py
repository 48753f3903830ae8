"""Measures of each matte of a job, and the selection of frames to check by eye."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fusematte.engine.frame import Map, Matte
from fusematte.engine.media.segments import Span

MOST_FRAMES = 24
"""Maximum number of frames to check."""
NEIGHBOURS = 12
"""A change is compared with those of so many frames before and after."""
JUMP, JUMP_RATIO = 0.01, 4.0
"""The matte jumps if its change exceeds both this value and this multiple of the local median."""
DOUBTED = 100.0
"""Severity of a doubtful selection: such frames come first."""
UNSURE, UNSURE_SPREAD = 0.02, 4.0
"""A frame is unsure if its confidence is below the median by this value and by this many median
absolute deviations."""


class Measure(NamedTuple):
    """Measures of one frame's matte.

    pts: in the input's time base; confidence: 0..1; coverage: mean alpha, 0..1;
    change, motion: mean absolute difference of alpha, and of luma, to the frame before, 0..1.
    doubt: of a choice of who is kept, in words.
    """

    pts: int
    confidence: float
    coverage: float
    change: float
    motion: float
    doubt: str = ""


class Measures:
    """Observes each matte of a job, in order, and keeps its measures; of a span, only its own."""

    def __init__(self, span: Span | None = None) -> None:
        self.rows: list[Measure] = []
        self._span = span
        self._last: Matte | None = None

    def __call__(self, matte: Matte) -> None:
        last, self._last = self._last, matte
        if self._span is not None and not self._span.has(matte.pts):
            return
        change = motion = 0.0
        if last is not None and last.alpha.shape == matte.alpha.shape:
            change = _difference(matte.alpha, last.alpha)
            motion = _difference(matte.color[0], last.color[0])
        measure = Measure(
            pts=matte.pts,
            confidence=round(matte.confidence, 5),
            coverage=round(float(matte.alpha.mean()), 5),
            change=round(change, 5),
            motion=round(motion, 5),
            doubt=matte.doubt,
        )
        self.rows.append(measure)


def _difference(a: Map, b: Map) -> float:
    return float(np.abs(a - b).mean())


class Suspect(NamedTuple):
    """A frame to check by eye: its index, the reason, and the severity (1 and more)."""

    frame: int
    why: str
    severity: float


def suspects(measures: Sequence[Measure]) -> list[Suspect]:
    """The frames to check, in order; of neighbouring frames only the worst."""
    found = sorted(
        [*_jumps(measures), *_unsure(measures), *_doubted(measures)], key=lambda s: -s.severity
    )
    chosen: list[Suspect] = []
    for suspect in found:
        if all(abs(suspect.frame - other.frame) > NEIGHBOURS for other in chosen):
            chosen.append(suspect)
    return sorted(chosen[:MOST_FRAMES])


def _doubted(measures: Sequence[Measure]) -> Iterable[Suspect]:
    """Where the choice of who is kept begins to be in doubt."""
    before = ""
    for index, measure in enumerate(measures):
        if measure.doubt not in ("", before):
            yield Suspect(index, measure.doubt, DOUBTED)
        before = measure.doubt


def _jumps(measures: Sequence[Measure]) -> Iterable[Suspect]:
    # A change that the picture itself explains is not a jump: a cut changes both.
    extra = np.array([max(0.0, m.change - m.motion) for m in measures])
    for index in range(1, len(measures)):
        around = extra[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1]
        bound = max(JUMP, JUMP_RATIO * float(np.median(around)))
        if extra[index] > bound:
            change = 100 * measures[index].change
            why = f"the matte jumps: {change:.1f} % of the picture changed"
            yield Suspect(index, why, float(extra[index]) / bound)


def _unsure(measures: Sequence[Measure]) -> Iterable[Suspect]:
    values = np.array([m.confidence for m in measures])
    median = float(np.median(values)) if values.size else 1.0
    spread = float(np.median(np.abs(values - median))) if values.size else 0.0
    bound = max(UNSURE, UNSURE_SPREAD * spread)
    for index, value in enumerate(values):
        if median - value > bound:
            why = f"low confidence: {value:.3f}, the video's median is {median:.3f}"
            yield Suspect(index, why, float(median - value) / bound)
