"""Sound that must be converted keeps its time and its length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.helpers import content, transcode

from fusematte.engine.errors import UsageError
from fusematte.engine.media.audio import AudioMode

RATE = 44_100
DELAY = {".webm": 0.002, ".mkv": 0.05, ".mp4": 0.002, ".ts": 0.03}
"""Seconds by which the click may move: .ts cannot tell of a delay; WMA, here in .mkv, has one."""


def click(
    path: Path, codec: str, *, hole: bool = False, rate: int = RATE, layout: str = "stereo"
) -> Path:
    """Two seconds, 50 pictures, with a click after one second; with a hole of half a second
    before it, the packets there are missing."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = container.add_stream(codec, rate=rate)
        sound.codec_context.layout, sound.codec_context.bit_rate = layout, 128_000
        samples = np.zeros((sound.codec_context.layout.nb_channels, 2 * rate), np.float32)
        samples[:, rate : rate + 20] = 0.9
        frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        context = sound.codec_context
        resampler = av.AudioResampler(context.format, context.layout, rate)
        packets = [packet for part in resampler.resample(frame) for packet in sound.encode(part)]
        for index in range(50):
            picture = av.VideoFrame(64, 48, "yuv420p")
            picture.pts = index
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for packet in [*packets, *sound.encode(None)]:
            if not hole or not 0.3 < float((packet.pts or 0) * packet.time_base) < 0.8:
                container.mux(packet)
    return path


def heard(path: Path) -> tuple[str, float, float]:
    """The codec, when the click is heard and when the sound ends, in seconds."""
    loudest, when, end = 0.0, 0.0, 0.0
    with av.open(str(path)) as container:
        name = container.streams.audio[0].codec_context.name
        for frame in container.decode(audio=0):
            resampler = av.AudioResampler("fltp", "mono", frame.sample_rate)
            for part in resampler.resample(frame):
                samples = np.abs(part.to_ndarray()[0])
                time = float(frame.pts * frame.time_base)
                end = time + samples.size / frame.sample_rate
                if samples.max() > loudest:
                    loudest, when = samples.max(), time + samples.argmax() / frame.sample_rate
    return name, when, end


@pytest.mark.parametrize(
    ("source", "codec", "suffix", "expected"),
    [
        (".mov", "pcm_s16le", ".webm", "opus"),
        (".mov", "pcm_s16le", ".mp4", "aac"),
        (".mov", "pcm_s16le", ".ts", "aac"),
        (".avi", "pcm_s16le", ".mp4", "aac"),  # AVI does not say which channels these are
        (".mp4", "aac", ".webm", "opus"),
        (".mkv", "flac", ".ts", "aac"),
        (".wmv", "wmav2", ".mkv", "opus"),  # PyAV does not let it be copied there
    ],
)
def test_sound_that_the_container_cannot_hold_is_converted(
    tmp_path: Path, source: str, codec: str, suffix: str, expected: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    clip, output = click(tmp_path / f"in{source}", codec), tmp_path / f"out{suffix}"
    transcode(clip, output, audio="convert")
    name, when, end = heard(output)
    assert name == expected
    assert abs(when - 1) < DELAY[suffix]
    assert abs(end - 2) < 0.1
    assert len(content(output).times) == 50
    assert [text for text in caplog.messages if "converted to" in text and codec in text]


def test_what_can_be_copied_is_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip, output = click(tmp_path / "in.mp4", "aac"), tmp_path / "out.mkv"
    transcode(clip, output, audio="convert")
    before, after = content(clip).packets, content(output).packets
    assert [data for _, data, _ in before] == [data for _, data, _ in after]
    assert not caplog.messages


def test_a_gap_becomes_silence(tmp_path: Path) -> None:
    clip = click(tmp_path / "in.mkv", "aac", hole=True)
    transcode(clip, tmp_path / "out.webm", audio=True)
    _, when, end = heard(tmp_path / "out.webm")
    assert abs(when - heard(clip)[1]) < 0.005
    assert abs(end - 2) < 0.1


def test_sound_that_changes_its_rate_and_channels(tmp_path: Path) -> None:
    """As recordings that were joined do."""
    parts = [
        click(tmp_path / f"{layout}.ts", "mp2", rate=rate, layout=layout)
        for layout, rate in (("stereo", 44_100), ("mono", 48_000), ("stereo", 44_100))
    ]
    clip, output = tmp_path / "in.ts", tmp_path / "out.webm"
    clip.write_bytes(b"".join(part.read_bytes() for part in parts))
    transcode(clip, output, audio="convert")
    assert len(content(output).times) == 150
    name, _, end = heard(output)
    assert name == "opus"
    assert abs(end - 6) < 0.2


@pytest.mark.parametrize("mode", ["copy", "none"])
def test_the_other_modes(tmp_path: Path, mode: AudioMode) -> None:
    clip, output = click(tmp_path / "in.mp4", "aac"), tmp_path / "out.webm"
    if mode == "copy":
        with pytest.raises(UsageError, match="cannot store aac audio"):
            transcode(clip, output, audio=mode)
        return
    transcode(clip, output, audio=mode)
    with av.open(str(output)) as container:
        assert not container.streams.audio
