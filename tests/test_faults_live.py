"""What happens to a live session when: the disk is full, it is killed, the clock is set back."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusematte.engine.live.cameras import open_camera
from fusematte.engine.live.recording import Recording
from fusematte.engine.live.run import LiveRun
from fusematte.engine.live.session import Session
from tests.helpers import content, make_clip, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
BACKEND = "openvino:cpu:f32"
"""One that is not tuned first."""


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", width=128, height=96, frames=500)


def start(clip: Path, output: Path, prelude: str = "") -> subprocess.Popen[str]:
    code = f"import sys; {prelude}from fusematte.cli import main; sys.exit(main(sys.argv[1:]))"
    # With a new picture each time, so that the recording grows.
    live = ["live", "-q", "-c", clip, "-o", output, "-b", clip, "--backend", BACKEND]
    command = [sys.executable, "-c", code, *map(str, live)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_full_disk_ends_a_recording_that_plays(clip: Path, tmp_path: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, -1)); "
    ignored = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    output = tmp_path / "out.mkv"
    process = start(clip, output, f"import resource, signal; {ignored}{limit}")
    _, said = process.communicate(timeout=200)
    assert process.returncode == 5, said
    assert "out.mkv: cannot be written" in said and "Traceback" not in said
    assert not output.exists()
    assert len(content(tmp_path / "out.mkv.part").times) > 3


@pytest.mark.slow
def test_a_killed_recording_plays(clip: Path, tmp_path: Path) -> None:
    output, part = tmp_path / "out.mkv", tmp_path / "out.mkv.part"
    process = start(clip, output)
    try:
        wait_for(lambda: part.exists() and part.stat().st_size > 30_000, 200)
    finally:
        process.kill()
        process.communicate()
    assert not output.exists()
    assert len(content(part).times) > 3


def test_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an hour each time that anybody asks."""
    clip, output = make_clip(tmp_path / "in.mp4", frames=20, rate=20), tmp_path / "out.mkv"
    now = itertools.count(time.time_ns(), -3600 * 10**9)
    monkeypatch.setattr(time, "time_ns", lambda: next(now))
    monkeypatch.setattr(time, "time", lambda: next(now) / 1e9)
    camera = open_camera(str(clip))
    with Session("#00ff00", backend=BACKEND) as session:
        LiveRun(camera, session, [Recording(output, camera.like, camera.rate)], ["green"]).run()
    times = content(output).times
    assert len(times) > 3
    assert times == sorted(set(times))
    assert times[-1] - times[0] < 600
