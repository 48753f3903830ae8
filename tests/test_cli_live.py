"""``fusematte live`` as a user meets it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fusematte.cli import main
from fusematte.engine.live import cameras
from tests.helpers import content, make_clip, wait_for

pytestmark = pytest.mark.usefixtures("small_network")


def fails(capfd: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """Runs a command that must fail with ``code`` and one line; returns the line."""
    assert main(["live", "-q", *map(str, arguments)]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("fusematte: ")
    return line


def test_records_a_paced_clip_and_tells_the_figures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=30)
    outputs = [tmp_path / "a.mkv", tmp_path / "b.mp4"]
    assert main(["live", "-c", str(clip), *(f"-o{path}" for path in outputs)]) == 0
    said = capfd.readouterr().out
    assert "fps" in said and "dropped" in said and "budget 40 ms" in said
    assert main(["live", "--json", "-c", str(clip), "-o", str(tmp_path / "c.mkv")]) == 0
    *_, last = map(json.loads, capfd.readouterr().out.splitlines())
    assert last["event"] == "done" and last["frames"] > 0
    for path in outputs:
        assert len(content(path).times) > 5
    assert not list(tmp_path.glob("*.part"))


def test_what_cannot_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    assert "--preview" in fails(capfd, 2, "-c", clip)
    assert main(["live", "-q", "-c", str(clip), "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"] == "UsageError"
    assert "--camera list" in fails(capfd, 3, "-c", "no-such-camera", "--preview")
    assert "cannot be reached" in fails(capfd, 3, "-c", "rtmp://127.0.0.1:9/x", "--preview")
    assert "pinkish" in fails(capfd, 6, "-c", clip, "-b", "pinkish", "-o", tmp_path / "o.mkv")
    assert "o.xyz" in fails(capfd, 2, "-c", clip, "-o", tmp_path / "o.xyz")
    assert "gopher" in fails(capfd, 2, "-c", clip, "-o", "gopher://there")
    assert "nodir" in fails(capfd, 5, "-c", clip, "-o", tmp_path / "nodir" / "o.mkv")
    assert not list(tmp_path.glob("o*"))
    with pytest.raises(SystemExit):
        main(["live", "--fps", "0"])


def test_cameras_can_be_listed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["live", "--camera", "list"]) == 0
    assert capfd.readouterr().out.strip()
    monkeypatch.setattr(cameras, "list_cameras", list)
    assert "connect one" in fails(capfd, 3, "-c", "7", "--preview")


@pytest.mark.skipif(
    "GUI:                           NONE" not in cv2.getBuildInformation(), reason="has windows"
)
def test_no_window_without_a_gui(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    message = fails(capfd, 5, "-c", make_clip(tmp_path / "in.mp4"), "--preview")
    assert "opencv-python" in message


def test_virtual_camera_that_is_missing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyvirtualcam")
    if list(Path("/dev").glob("video*")):
        pytest.skip("this machine has video devices")
    message = fails(capfd, 5, "-c", make_clip(tmp_path / "in.mp4"), "--virtual-camera")
    assert "v4l2loopback" in message and "modprobe" in message


def test_pictures_reach_a_virtual_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyvirtualcam = pytest.importorskip("pyvirtualcam")
    from pyvirtualcam import camera

    sent: list[NDArray[np.uint8]] = []

    class Recorder(pyvirtualcam.Backend):  # type: ignore[misc]
        """A backend of pyvirtualcam that keeps what programs would see."""

        def __init__(self, **options: object) -> None:
            self.options = options

        def close(self) -> None:
            pass

        def send(self, frame: NDArray[np.uint8]) -> None:
            sent.append(frame.copy())

        def device(self) -> str:
            return "recorder"

        def native_fourcc(self) -> None:
            return None

    monkeypatch.setattr(camera, "BACKENDS", {"recorder": Recorder})
    clip = make_clip(tmp_path / "in.mp4", frames=40)
    assert main(["live", "-q", "-c", str(clip), "-b", "#00ff00", "--virtual-camera"]) == 0
    assert len(sent) > 5
    assert {frame.size for frame in sent} == {64 * 48 * 3 // 2}
    green = cv2.cvtColor(sent[-1].reshape(72, 64), cv2.COLOR_YUV2RGB_I420)[0, 0]
    assert green[1] > 200 and green[0] < 60 and green[2] < 60


@pytest.mark.parametrize("how", ["ctrl-c", "q"])
def test_ctrl_c_and_q_end_it_with_a_whole_file(how: str, tmp_path: Path, small_model: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=1500)
    output, part = tmp_path / "out.ts", tmp_path / "out.ts.part"
    leader, terminal = pty.openpty()
    live = ["live", "-c", str(clip), "-o", str(output), "--model", small_model]
    process = subprocess.Popen(
        [sys.executable, "-m", "fusematte", *live],
        stdin=terminal, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: (part.exists() and part.stat().st_size > 0) or process.poll() is not None)
    assert process.poll() is None
    deadline = time.monotonic() + 60
    if how == "q":
        os.write(leader, b"maf")
        while process.poll() is None and time.monotonic() < deadline:
            os.write(leader, b"q")  # what comes before the terminal is set up is lost
            time.sleep(0.2)
    else:
        process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    os.close(terminal)
    os.close(leader)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert content(output).times and not part.exists()
