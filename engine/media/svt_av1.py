"""Keeps the encoder SVT-AV1 from taking the processors for itself, and from printing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def tamed() -> Iterator[None]:
    """Open encoders within it: threads that became real-time there are ordinary ones after it.

    SVT-AV1, where it may (for root, so in most containers), gives its threads and the one that
    opens it the highest real-time priority: decoder, network and everything else on the machine
    would wait for them.  Threads that a real-time thread starts are real-time too.
    """
    os.environ.setdefault("SVT_LOG", "1")  # errors only; read once, when it is first opened
    before = real_time_threads()
    try:
        yield
    finally:
        for thread in real_time_threads() - before:
            with suppress(OSError):  # it has ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def real_time_threads() -> set[int]:
    """The numbers of this process's threads that run before all ordinary ones; Linux only."""
    if sys.platform != "linux":
        return set()
    found = set()
    for entry in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            if os.sched_getscheduler(int(entry.name)) in (os.SCHED_FIFO, os.SCHED_RR):
                found.add(int(entry.name))
    return found
