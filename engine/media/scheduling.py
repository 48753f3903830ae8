"""Keeps encoders from taking the processors for themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Threads that became real-time within the block are made ordinary ones at its end.

    SVT-AV1, where it may (for root, so in most containers), gives its threads and the one that
    opens it the highest real-time priority: decoder, network and everything else on the machine
    would wait for them.  Threads that a real-time thread starts are real-time too.
    """
    before = _real_time_threads()
    try:
        yield
    finally:
        for thread in _real_time_threads() - before:
            with suppress(OSError):  # it has ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _real_time_threads() -> set[int]:
    if sys.platform != "linux":
        return set()
    found = set()
    for entry in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            if os.sched_getscheduler(int(entry.name)) in (os.SCHED_FIFO, os.SCHED_RR):
                found.add(int(entry.name))
    return found
