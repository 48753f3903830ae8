"""When the closed frame is due, and that time never goes back."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fusematte.engine.frame import CLOCK
from fusematte.engine.live.fail_closed import LATE, STALL, STEP, FailClosed


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> FailClosed:
    return FailClosed(clock)


def test_it_is_due_before_the_first_result_and_after_a_stall(
    watch: FailClosed, clock: Clock
) -> None:
    assert watch.is_due and not watch.has_begun
    watch.note()
    assert watch.has_begun and not watch.is_due
    clock.now += STALL
    assert not watch.is_due
    clock.now += 0.01
    assert watch.is_due
    watch.note()
    assert not watch.is_due


def test_what_comes_late_is_shown_just_after_the_last(watch: FailClosed) -> None:
    second = int(1 / CLOCK)
    assert watch.shown_at(10 * second) == 10 * second
    assert watch.shown_at(9 * second) == 10 * second + STEP  # a result from before a closed frame
    assert watch.shown_at(10 * second + STEP) == 10 * second + 2 * STEP
    assert watch.shown_at(11 * second) == 11 * second


def test_a_source_that_starts_anew_keeps_its_own_time(watch: FailClosed) -> None:
    second = int(1 / CLOCK)
    assert watch.shown_at((LATE + 5) * second) == (LATE + 5) * second
    assert watch.shown_at(0) == 0


def test_where_timestamps_never_begin_anew_the_latest_result_is_late(clock: Clock) -> None:
    watch, second = FailClosed(clock, restarts=False), int(1 / CLOCK)
    assert watch.shown_at((LATE + 5) * second) == (LATE + 5) * second
    assert watch.shown_at(0) == (LATE + 5) * second + STEP
