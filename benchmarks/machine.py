"""What every result says of the machine it was measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

from fusematte.engine.backends import create_backend
from fusematte.engine.models import load_bundle


def real_time_priority() -> bool:
    """Whether this runs ahead of all other programs, as by ``chrt -r 1``: a way to measure on a
    machine that cannot be cleared of them, though they still take their share of its caches."""
    if not hasattr(os, "sched_getscheduler"):
        return False
    return os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)


def machine() -> dict[str, object]:
    """Processor, cores, date and the versions that matter."""
    backend = create_backend("auto", load_bundle())
    return {
        "cpu": backend.device,
        "precision": backend.precision,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "real_time_priority": real_time_priority(),
        "versions": {name: version(name) for name in ("fusematte", "openvino", "av", "numpy")},
    }
