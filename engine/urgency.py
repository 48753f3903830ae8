"""Threads that run before others: on a busy machine a live frame does not wait for a processor.

Linux gives each thread a nice value of its own, and lets it go below that of the process where this
may: as root, with CAP_SYS_NICE, or within RLIMIT_NICE.  Elsewhere all threads stay equal.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

URGENT = 10
"""How far an urgent thread's nice value is below that of the process."""


def set_urgency(*, urgent: bool) -> None:
    """Lets the calling thread run before ordinary ones, where it may, or beside them.

    Threads are as urgent as the one that starts them until they say otherwise.
    """
    if sys.platform != "linux" or urgent == is_urgent():
        return
    usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
    with suppress(PermissionError):
        os.setpriority(
            os.PRIO_PROCESS, threading.get_native_id(), usual - URGENT if urgent else usual
        )


def is_urgent() -> bool:
    """Whether the calling thread runs before ordinary ones."""
    if sys.platform != "linux":
        return False
    own, usual = (
        os.getpriority(os.PRIO_PROCESS, thread)
        for thread in (threading.get_native_id(), os.getpid())
    )
    return own < usual


@contextmanager
def at_leisure() -> Iterator[None]:
    """Within the block the calling thread, and what it starts, is not urgent."""
    before = is_urgent()
    set_urgency(urgent=False)
    try:
        yield
    finally:
        set_urgency(urgent=before)


def may_be_urgent() -> bool:
    """Whether threads of this process may be urgent."""
    found: list[bool] = []

    def tell() -> None:
        set_urgency(urgent=True)
        found.append(is_urgent())

    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
    return found == [True]
