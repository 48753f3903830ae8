"""What every result says of the machine it was measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

from fusematte.engine.backends import create_backend
from fusematte.engine.models import load_bundle


def machine() -> dict[str, object]:
    """Processor, cores, date and the versions that matter."""
    backend = create_backend("auto", load_bundle())
    return {
        "cpu": backend.device,
        "precision": backend.precision,
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("fusematte", "openvino", "av", "numpy")},
    }
