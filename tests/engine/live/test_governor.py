"""The governor against a machine whose speed the test sets: pure logic, no clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusematte.engine.live.governor import (
    LEVELS,
    MAX_PATIENCE,
    PATIENCE,
    SLOW,
    WINDOW,
    Governor,
    Level,
)

BUDGET, RATE = 33.0, 30


def run(
    governor: Governor, seconds: float, full_ms: Callable[[float], float], begin: float = 0.0
) -> Iterator[tuple[float, Level, float]]:
    """Frames at 30 a second whose network takes ``full_ms(time)`` at full size; the rest 8 ms,
    or 12 where the network works beside it.

    Gives (time, level, latency).
    """
    for index in range(round(seconds * RATE)):
        now, level = begin + index / RATE, governor.level
        network = level.scale * full_ms(now)
        latency = 12 if level.carried else network + 8
        governor.observe(now, latency, network, level)
        yield now, level, latency


def test_fast_enough_stays() -> None:
    governor = Governor(BUDGET)
    assert {level for _, level, _ in run(governor, 20, lambda _: 20.0)} == {LEVELS[0]}
    assert governor.holds and governor.changes == 0


def test_goes_down_within_half_a_second_and_holds() -> None:
    governor = Governor(BUDGET)
    frames = list(run(governor, 20, lambda _: 40.0))
    late = [now for now, _, latency in frames if latency > BUDGET]
    assert late and max(late) < 0.5
    assert governor.level == Level(1.0, carried=True)
    assert governor.holds


def test_recovers_when_the_load_goes() -> None:
    governor = Governor(BUDGET)
    list(run(governor, 10, lambda _: 60.0))
    assert governor.level == LEVELS[1]
    back = [now for now, level, _ in run(governor, 30, lambda _: 15.0, 10.0) if level == LEVELS[0]]
    assert back and back[0] < 10 + 2 * (WINDOW / RATE + PATIENCE)
    assert [d.after for d in governor.decisions] == [LEVELS[1], LEVELS[0]]
    assert all(decision.why for decision in governor.decisions)


def test_carried_mattes_do_not_become_too_old() -> None:
    governor = Governor(BUDGET)
    list(run(governor, 10, lambda _: 2 * SLOW))
    assert governor.level == LEVELS[-1]  # at 0.58 it still takes 1.16 * SLOW
    assert governor.holds
    list(run(governor, 30, lambda _: 0.8 * SLOW, 10.0))
    assert governor.level == LEVELS[1]
    assert [d.after for d in governor.decisions] == [*LEVELS[1:], *LEVELS[-2:0:-1]]
    assert all(decision.why for decision in governor.decisions)


def test_a_busy_machine_takes_the_smallest() -> None:
    """Where carrying does not help, because there is no time for anything."""
    governor = Governor(BUDGET)
    for index in range(RATE * 10):
        governor.observe(index / RATE, 50.0, 30.0, governor.level)
    assert governor.level == LEVELS[-1]
    assert not governor.holds


def test_one_slow_frame_moves_nothing() -> None:
    governor = Governor(BUDGET)
    for index in range(8 * WINDOW):
        slow = 500.0 if index % (WINDOW // 2) == 0 else 20.0
        governor.observe(index / RATE, slow, 10.0, governor.level)
    assert governor.changes == 0 and governor.holds


def test_does_not_swing_where_the_level_above_never_fits() -> None:
    # The network is quicker beside the frames than before them, so going up looks right.
    governor = Governor(BUDGET)
    for index in range(RATE * 600):
        level = governor.level
        network = 10.0 if level.carried else 35.0
        governor.observe(index / RATE, 12.0 if level.carried else network + 4, network, level)
    # Twice each time it tries, and each try waits twice as long as the one before.
    assert governor.changes < 2 * (600 / MAX_PATIENCE + 6)
    times = [d.time for d in governor.decisions if d.after == LEVELS[0]]
    assert times[3] - times[2] > 1.5 * (times[2] - times[1])


def test_frames_of_another_level_say_nothing() -> None:
    governor = Governor(BUDGET)
    for index in range(100):
        governor.observe(index / RATE, 500.0, 400.0, LEVELS[-1])
    assert governor.changes == 0


@settings(max_examples=50, deadline=None)
@given(
    latencies=st.lists(st.floats(0.1, 200), max_size=300),
    budget=st.floats(1, 100),
)
def test_always_a_prepared_level_and_one_step_at_a_time(
    latencies: list[float], budget: float
) -> None:
    governor = Governor(budget)
    for index, latency in enumerate(latencies):
        before = LEVELS.index(governor.level)
        governor.observe(index / RATE, latency, latency / 2, governor.level)
        assert abs(LEVELS.index(governor.level) - before) <= 1
    changes = [(LEVELS.index(d.before), LEVELS.index(d.after)) for d in governor.decisions]
    assert all(b[0] == a[1] for a, b in itertools.pairwise(changes))


@pytest.mark.parametrize(("network_ms", "index"), [(0, 0), (28, 0), (29, 1), (1000, 1)])
def test_begins_with_a_carried_matte_where_the_network_takes_too_long(
    network_ms: float, index: int
) -> None:
    governor = Governor(BUDGET)
    governor.begin(network_ms)
    assert governor.level == LEVELS[index]
