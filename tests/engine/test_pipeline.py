"""The pipeline with real threads: order, errors, bounds, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from tests.helpers import wait_for

from fusematte.engine.pipeline import DEPTH, Pipeline, Stage, Stopped


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fusematte-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


def double(x: int) -> int:
    return 2 * x


def test_keeps_the_order_whichever_stage_is_slow() -> None:
    def uneven(x: int) -> int:
        time.sleep(0.002 * (x % 3 == 0))
        return x + 1

    with Pipeline(
        ("count", range(40)), Stage("a", uneven), Stage("b", double), Stage("c", uneven)
    ) as pipeline:
        assert list(pipeline) == [2 * (x + 1) + 1 for x in range(40)]


def test_without_stages_and_without_items() -> None:
    with Pipeline(("count", range(3))) as pipeline:
        assert list(pipeline) == [0, 1, 2]
    with Pipeline(("nothing", []), Stage("a", double)) as pipeline:
        assert list(pipeline) == []


def test_a_second_pass_does_not_wait_for_ever() -> None:
    with Pipeline(("source", [1, 2])) as pipeline:
        assert list(pipeline) == [1, 2]
        with pytest.raises(Stopped):
            next(iter(pipeline))


def test_none_is_a_value_like_any_other() -> None:
    with Pipeline(("count", [None, 1, None]), Stage("same", lambda x: x)) as pipeline:
        assert list(pipeline) == [None, 1, None]


def test_each_stage_has_its_own_named_thread() -> None:
    seen = []

    def note(x: int) -> int:
        seen.append(threading.current_thread().name)
        return x

    def source() -> Iterator[int]:
        seen.append(threading.current_thread().name)
        yield 1

    with Pipeline(("decode", source()), Stage("network", note), Stage("blend", note)) as pipeline:
        list(pipeline)
    assert seen == ["fusematte-decode", "fusematte-network", "fusematte-blend"]


def test_stages_work_at_the_same_time() -> None:
    # Each waits in the middle of its work for the other: one after the other, neither would end.
    first_began, second_began = threading.Event(), threading.Event()

    def first(x: int) -> bool:
        if x == 0:
            return True
        first_began.set()
        return second_began.wait(5)

    def second(met: bool) -> bool:
        second_began.set()
        return first_began.wait(5) and met

    with Pipeline(("count", range(2)), Stage("a", first), Stage("b", second)) as pipeline:
        assert list(pipeline) == [True, True]


def results_until(error: type[BaseException], pipeline: Pipeline) -> list[object]:
    """What the pipeline gives before it raises."""
    results: list[object] = []
    with pytest.raises(error):
        results.extend(pipeline)
    return results


@pytest.mark.parametrize("bad_stage", ["a", "b"])
def test_stage_error_comes_after_all_earlier_results(bad_stage: str) -> None:
    def fail_at_7(x: int) -> int:
        if x == 7:
            raise ZeroDivisionError
        return x

    stages = [Stage(name, fail_at_7 if name == bad_stage else lambda x: x) for name in "ab"]
    with Pipeline(("count", range(100)), *stages) as pipeline:
        assert results_until(ZeroDivisionError, pipeline) == list(range(7))


def test_source_error_comes_after_all_earlier_results() -> None:
    def source() -> Iterator[int]:
        yield from range(9)
        raise ZeroDivisionError

    with Pipeline(("read", source()), Stage("a", double)) as pipeline:
        assert results_until(ZeroDivisionError, pipeline) == [2 * x for x in range(9)]


def test_a_keyboard_interrupt_in_a_stage_arrives() -> None:
    def interrupt(x: int) -> int:
        if x == 2:
            raise KeyboardInterrupt
        return x

    with Pipeline(("count", range(9)), Stage("a", interrupt)) as pipeline:
        assert results_until(KeyboardInterrupt, pipeline) == [0, 1]


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_source_does_not_run_ahead_of_the_bound(stages: int) -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for index in range(1000):
            taken += 1
            yield index

    # DEPTH values wait in each queue; the source and each stage hold one more in their hands.
    bound = (stages + 1) * DEPTH + stages + 1
    work = [Stage(str(index), double) for index in range(stages)]
    with Pipeline(("count", source()), *work) as pipeline:
        wait_for(lambda: taken == bound, 5)
        time.sleep(0.05)
        assert taken == bound
        consumed = iter(pipeline)
        for _ in range(3):
            next(consumed)
        wait_for(lambda: taken == bound + 3, 5)
        time.sleep(0.02)
        assert taken == bound + 3


def test_leaving_early_stops_an_endless_source() -> None:
    def source() -> Iterator[int]:
        index = 0
        while True:
            yield index
            index += 1

    begun = time.monotonic()
    with Pipeline(("count", source()), Stage("a", double), Stage("b", double)) as pipeline:
        assert next(iter(pipeline)) == 0
        assert len(threads()) == 3
    assert threads() == []
    assert time.monotonic() - begun < 2


def test_leaving_while_a_stage_waits_for_its_first_item() -> None:
    gate = threading.Event()

    def source() -> Iterator[int]:
        gate.wait(5)
        yield 1

    with Pipeline(("slow", source()), Stage("a", double), Stage("b", double)):
        assert len(threads()) == 3
        gate.set()
    assert threads() == []


def test_the_consumers_error_stops_the_threads() -> None:
    with (
        pytest.raises(RuntimeError, match="disk full"),
        Pipeline(("count", range(1000)), Stage("a", double)) as pipeline,
    ):
        for _ in pipeline:
            raise RuntimeError("disk full")
    assert threads() == []


def test_statistics_count_work_and_not_waiting() -> None:
    def slow(x: int) -> int:
        time.sleep(0.01)
        return x

    with Pipeline(("count", range(10)), Stage("fast", double), Stage("slow", slow)) as pipeline:
        list(pipeline)
        busy, elapsed = pipeline.statistics.busy, pipeline.statistics.elapsed
    assert set(busy) == {"count", "fast", "slow"}
    assert 0.1 <= busy["slow"] <= elapsed
    assert busy["count"] < 0.05 > busy["fast"]  # they waited for the slow one most of the time


def test_a_stage_may_give_several_none_and_the_rest_at_the_end() -> None:
    held: list[int] = []

    def pairs(item: int) -> list[int]:
        held.append(item)
        return [held.pop(0), item] if len(held) > 1 else []

    with Pipeline(("count", range(3)), Stage("a", pairs, lambda: [*held, 9])) as pipeline:
        assert list(pipeline) == [0, 1, 1, 2, 2, 9]


def test_what_a_stage_holds_comes_before_the_error_that_ends_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("cut short")

    held: list[int] = []
    stage = Stage("a", lambda item: held.append(item) or [], lambda: held)  # type: ignore[func-returns-value]
    seen = []
    with Pipeline(("read", source()), stage) as pipeline, pytest.raises(ValueError, match="cut"):
        for item in pipeline:
            seen.append(item)  # noqa: PERF402
    assert seen == [1]


def test_threads_see_the_context_of_whoever_starts_them() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="nothing")
    token = variable.set("something")
    try:
        with Pipeline(("count", range(2)), Stage("a", lambda _: variable.get())) as pipeline:
            assert list(pipeline) == ["something"] * 2
    finally:
        variable.reset(token)
