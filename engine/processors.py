"""How a machine's processors are shared between the network and everything else."""

from __future__ import annotations

import os


def network_threads(wanted: int | None = None) -> int:
    """As many as are wanted; if nobody says, half of the processors: what decodes, composites and
    encodes at the same time wants the rest.

    Threads of a network wait for the slowest of them, so sharing a processor costs all of them: of
    two beside a process that takes a core of two, live latency had a p99 of 67 ms, of one 25 ms.
    """
    if wanted is not None:
        return wanted
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    return max(1, (processors or 1) // 2)
