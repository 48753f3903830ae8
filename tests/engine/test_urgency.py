"""Threads of live frames come before others; what they start does not."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
from tests.helpers import wait_for
from tests.peers import HookedMatter, Infer

from fusematte.engine.backends import Maps
from fusematte.engine.frame import Map
from fusematte.engine.live.session import Session
from fusematte.engine.pipeline import Relay, Stage
from fusematte.engine.urgency import URGENT, at_leisure, is_urgent, may_be_urgent, set_urgency

Answer = TypeVar("Answer")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nice values of threads")
allowed = pytest.mark.skipif(not may_be_urgent(), reason="this process may not")


def in_a_thread(work: Callable[[], Answer]) -> Answer:
    found: list[Answer] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def nice() -> int:
    """The calling thread's, above the process's."""
    usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) - usual


@allowed
def test_a_thread_is_urgent_until_it_says_otherwise() -> None:
    def work() -> list[int]:
        values = [nice()]
        set_urgency(urgent=True)
        values.append(nice())
        with at_leisure():
            values.append(nice())
            values.append(in_a_thread(nice))
        values.append(nice())
        set_urgency(urgent=False)
        return [*values, nice()]

    assert in_a_thread(work) == [0, -URGENT, 0, 0, -URGENT, 0]
    assert nice() == 0


def test_where_it_may_not_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)

    def work() -> tuple[bool, int]:
        set_urgency(urgent=True)
        with at_leisure():
            return is_urgent(), nice()

    assert in_a_thread(work) == (False, 0)
    assert not may_be_urgent()


@allowed
def test_an_urgent_relay_starts_an_ordinary_one() -> None:
    seen: list[int] = []
    inner: list[Relay] = []

    def outer(item: object) -> None:
        seen.append(nice())
        inner.append(Relay(Stage("inner", lambda _: seen.append(nice())), waiting=1))
        inner[0].push(item)

    relay = Relay(Stage("outer", outer), waiting=1, urgent=True)
    relay.push(1)
    wait_for(lambda: len(seen) == 2)
    assert seen == [-URGENT, 0]
    assert relay.close() and inner[0].close()


@allowed
@pytest.mark.parametrize("budget", [None, 1000.0, 0.001])
def test_live_frames_are_urgent_and_a_network_beside_them_is_not(budget: float | None) -> None:
    asked: list[int] = []

    def note(network: Infer, image: Map, previous: Map) -> Maps:
        asked.append(nice())
        return network(image, previous)

    composited: list[int] = []
    with HookedMatter(backend="openvino:cpu:f32", threads=1) as matter:
        matter.hook = note
        with Session(
            "green", matter=matter, budget_ms=budget, on_result=lambda _: composited.append(nice())
        ) as session:  # fmt: skip
            waits = budget is not None and budget > 1  # for the network, at last
            settled, indices = 0, itertools.count()
            while settled < 30:
                index = next(indices)
                session.push(np.full((96, 160, 3), index % 256, np.uint8), pts=3000 * index)
                wait_for(lambda: len(composited) > index)  # noqa: B023
                settled += not (waits and session.statistics.carried)
    assert set(composited) == {0 if budget is None else -URGENT}
    assert asked[-1] == (-URGENT if waits else 0)
