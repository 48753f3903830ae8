"""Calls that take turns at the clock, so that noise meets all alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from statistics import median

WARM = 5
"""Rounds before any that count."""


def medians_in_turns(calls: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Milliseconds of each call: the median of so many rounds."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(WARM + runs):
        for call, found in zip(calls, times, strict=True):
            call()  # threads of the one before may spin for a while; caches hold its weights
            begun = time.perf_counter()
            call()
            if turn >= WARM:
                found.append(1e3 * (time.perf_counter() - begun))
    return [median(found) for found in times]


def wall_and_processor(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall and of processor time of some work, with those of the processes that it
    starts and waits for."""
    before, begun = os.times(), time.perf_counter()
    work()
    after = os.times()
    return time.perf_counter() - begun, sum(after[:4]) - sum(before[:4])
