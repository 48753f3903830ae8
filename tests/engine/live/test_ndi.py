"""The NDI source, as a receiver in another process gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import make_clip

from fusematte.cli import main
from fusematte.engine.errors import OutputError
from fusematte.engine.frame import CLOCK
from fusematte.engine.live.ndi import NdiSource
from fusematte.engine.live.sound import RATE, Sound
from fusematte.engine.pixels.color import frame_from_rgb

RECEIVER = """
import json, sys, time
import numpy as np
from cyndilib.audio_frame import AudioRecvFrame
from cyndilib.finder import Finder
from cyndilib.receiver import Receiver, ReceiveFrameType
from cyndilib.video_frame import VideoRecvFrame
from cyndilib.wrapper.ndi_recv import RecvBandwidth, RecvColorFormat

finder, found = Finder(), None
finder.open()
while found is None:
    finder.wait_for_sources(1)
    found = next((n for n in finder.get_source_names() if sys.argv[1] in n), None)
receiver = Receiver(
    color_format=RecvColorFormat.RGBX_RGBA, bandwidth=RecvBandwidth.highest
)
video, audio = VideoRecvFrame(), AudioRecvFrame()
receiver.set_video_frame(video)
receiver.set_audio_frame(audio)
receiver.set_source(finder.get_source(found))
got = {}
while len(got) < 2:
    kind = receiver.receive(ReceiveFrameType.recv_video | ReceiveFrameType.recv_audio, 1000)
    if kind == ReceiveFrameType.recv_audio:
        samples, _ = audio.get_all_read_data()
        if samples.size:
            got["sound"] = np.abs(samples).max(1).tolist()
    elif kind == ReceiveFrameType.recv_video:
        size = video.xres, video.yres
        picture = np.frombuffer(video, np.uint8).reshape(size[1], size[0], 4)
        middle = picture[size[1] // 2]
        got["picture"] = [size, str(video.get_frame_rate()), middle[[8, -8]].tolist()]
print(json.dumps(got), flush=True)
"""


@pytest.fixture
def found_here(tmp_path: Path) -> dict[str, str]:
    """The environment of a receiver that also finds sources where no names are announced."""
    settings = {"ndi": {"networks": {"ips": "127.0.0.1"}}}
    (tmp_path / "ndi-config.v1.json").write_text(json.dumps(settings))
    return {**os.environ, "NDI_CONFIG_DIR": str(tmp_path)}


def test_pictures_alpha_and_sound_arrive(found_here: dict[str, str]) -> None:
    pytest.importorskip("cyndilib")
    rgb = np.full((48, 64, 3), (200, 40, 10), np.uint8)
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, 32:] = 128
    frame = replace(frame_from_rgb(rgb), alpha=alpha, time_base=CLOCK)
    wave = np.sin(np.arange(1024) / 8).astype(np.float32)
    name = f"FuseMatte test {os.getpid()}"
    with (
        closing(NdiSource(f"ndi://{name}", frame, Fraction(25), has_sound=True)) as source,
        subprocess.Popen(
            [sys.executable, "-c", RECEIVER, name],
            env=found_here, stdout=subprocess.PIPE, text=True,
        ) as receiver,
    ):  # fmt: skip
        deadline = time.monotonic() + 200
        while receiver.poll() is None:
            source.hear(Sound(np.stack([0.5 * wave, 0.25 * wave]), 0.0))
            source.show(frame)
            time.sleep(1024 / RATE)
            if time.monotonic() > deadline:
                receiver.kill()
        assert receiver.stdout is not None
        got = json.loads(receiver.stdout.read())
    size, rate, (solid, half) = got["picture"]
    assert size == [64, 48] and rate == "25"
    for pixel, opacity in ((solid, 255), (half, 128)):
        assert np.abs(np.subtract(pixel, [200, 40, 10, opacity])).max() <= 6
    # NDI's reference is 20 dB below full scale.
    assert np.allclose(got["sound"], [5, 2.5], atol=0.3)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyndilib.sender", None)
    monkeypatch.setitem(sys.modules, "cyndilib.audio_frame", None)
    like = frame_from_rgb(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(OutputError, match=r"needs cyndilib; pip install 'fusematte\[ndi\]'"):
        NdiSource("ndi://x", like, Fraction(25))
    clip = make_clip(tmp_path / "a.mp4", frames=2)
    assert main(["live", "-q", "--camera", str(clip), "--output", "ndi://x"]) == 5
