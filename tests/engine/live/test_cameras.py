"""Cameras: paced files, devices by libav, what comes back after it was lost."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from tests.helpers import make_clip

from fusematte.engine.errors import InputError, UsageError
from fusematte.engine.live.backoff import FIRST, LIMIT, BackOff
from fusematte.engine.live.cameras import (
    CaptureDevice,
    LiveContainer,
    camera_options,
    device_file,
    list_cameras,
    open_camera,
)


def test_a_file_is_played_at_its_own_pace_once(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", times=[0, 2, 3, 40], rate=20)
    camera = open_camera(str(clip))
    assert camera.like.width == 64
    begun, came = time.perf_counter(), []
    for _ in camera:
        came.append(time.perf_counter() - begun)
    for time_, due in zip(came, (0, 0.1, 0.15, 2), strict=True):
        assert due <= time_ < due + 1.5  # late on a busy machine, but not at half the pace


def test_closing_ends_the_wait(tmp_path: Path) -> None:
    camera = open_camera(str(make_clip(tmp_path / "in.mkv", times=[0, 500], rate=20)))
    threading.Timer(0.1, camera.close).start()
    begun = time.perf_counter()
    assert len(list(camera)) == 1
    assert time.perf_counter() - begun < 5


def test_frames_come_upright(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", rotation=90, frames=2, pixel_format="yuv422p")
    frames = list(open_camera(str(clip)))
    assert {(f.width, f.height, f.rotation, f.format.name) for f in frames} == {
        (48, 64, 0, "yuv420p")
    }


def test_a_device_that_is_lost_is_opened_again() -> None:
    # libavfilter's test picture, as a device that gives five frames and is gone.
    camera = LiveContainer("testsrc=size=64x48:rate=50:duration=0.1", driver="lavfi")
    assert (camera.rate, camera.like.width) == (50, 64)
    frames = list(itertools.islice(camera, 12))
    assert len(frames) == 12
    assert {(f.width, f.height, f.format) for f in frames} == {(64, 48, camera.like.format)}
    camera.close()


@pytest.mark.parametrize("name", ["no-such-camera", "/dev/video99", "99"])
def test_no_such_camera(name: str) -> None:
    with pytest.raises(InputError, match="--camera list"):
        open_camera(name)


def test_no_such_stream_and_size_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        open_camera("rtsp://127.0.0.1:9/none")
    clip = make_clip(tmp_path / "in.mp4")
    with pytest.raises(UsageError, match="its own size"):
        open_camera(str(clip), size=(480, 640))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError):
        open_camera(str(tmp_path / "text.mp4"))


def test_a_format_that_the_camera_has_not() -> None:
    with pytest.raises(InputError, match="--size and --fps"):
        LiveContainer("nosuchsource", driver="lavfi", options={"video_size": "1x1"})


def test_cameras_are_listed() -> None:
    assert all(device.name for device in list_cameras())


def test_back_off_doubles_up_to_a_limit() -> None:
    waits = BackOff()
    assert waits.is_due(0.0)
    delays = [waits.failed(100.0) for _ in range(6)]
    assert delays[:2] == [FIRST, 2 * FIRST]
    assert delays[-1] == LIMIT
    assert not waits.is_due(100.0 + LIMIT - 0.01)
    assert waits.is_due(100.0 + LIMIT)
    waits.succeeded()
    assert waits.failed(0.0) == FIRST


def test_rate_of_a_file(tmp_path: Path) -> None:
    camera = open_camera(str(make_clip(tmp_path / "in.mp4", rate=Fraction(30000, 1001))))
    assert camera.rate == Fraction(30000, 1001)
    camera.close()
    assert list(camera) == []


RECORDED = {
    "v4l2": ({"input_format": "mjpeg", "video_size": "1280x720"}, {"video_size": "640x480"}),
    "avfoundation": ({"framerate": "30", "video_size": "1280x720"},),
    "dshow": ({"vcodec": "mjpeg", "video_size": "1280x720"}, {"video_size": "1280x720"}),
}
"""Options that cameras were opened with, by driver."""


@pytest.mark.parametrize(
    ("driver", "asked", "expected"),
    [
        ("v4l2", {"video_size": "1280x720"}, 0),
        ("v4l2", {"video_size": "640x480"}, 1),
        ("avfoundation", {"video_size": "1280x720"}, 0),
        ("avfoundation", {"video_size": "1280x720", "framerate": "30000/1001"}, 0),
        ("dshow", {"video_size": "1280x720"}, 0),
    ],
)
def test_cameras_are_asked_for_what_they_have(
    driver: str, asked: dict[str, str], expected: int
) -> None:
    """The first of the attempts that the camera's table has."""
    table = RECORDED[driver]
    taken = next(options for options in camera_options(driver, asked) if options in table)
    assert taken == table[expected]


def test_a_number_on_windows_is_the_name_of_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [
        CaptureDevice("@device_pnp_1", "Integrated Camera"),
        CaptureDevice("@device_pnp_2", "USB Camera"),
    ]
    monkeypatch.setattr("fusematte.engine.live.cameras.list_cameras", lambda: known)
    monkeypatch.setattr(sys, "platform", "win32")
    assert device_file("1") == "video=USB Camera"
    assert device_file("Integrated Camera") == "video=Integrated Camera"
