"""What importing the engine alone does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WAITS = "OPENCV_THREAD_POOL_ACTIVE_WAIT_WORKER"


@pytest.mark.parametrize(("given", "wanted"), [({}, "0"), ({WAITS: "50"}, "50")])
def test_opencvs_threads_sleep_between_tasks(given: dict[str, str], wanted: str) -> None:
    """Unless the user says otherwise; OpenCV reads it when it is loaded, so that comes later."""
    code = f"import os, sys, fusematte.engine; print('cv2' in sys.modules, os.environ[{WAITS!r}])"
    environment = {name: value for name, value in os.environ.items() if name != WAITS} | given
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert said.stdout.decode().split() == ["False", wanted], said.stderr.decode()
