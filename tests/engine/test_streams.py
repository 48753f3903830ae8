"""Streams over 127.0.0.1 with a real peer that is killed and comes back."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from tests.helpers import picture

from fusematte.engine.camera import LiveContainer
from fusematte.engine.errors import InputError, OutputError, UsageError
from fusematte.engine.outlets import Sender, Stream
from fusematte.engine.recolor import frame_from_rgb
from fusematte.engine.session import CLOCK

RECOVERY = 5.0
"""Seconds from the peer's return to pictures."""
QUIET = ("ffmpeg", "-loglevel", "error", "-nostdin", "-y")

IMPATIENT = ("-fflags", "nobuffer", "-analyzeduration", "100000", "-probesize", "20000")
"""ffmpeg would look at five seconds of a stream before it begins."""

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is the peer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ffmpeg(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([*QUIET, *map(str, arguments)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def stream_until(sender: Sender, done: Any, seconds: float) -> float:  # noqa: ANN401
    """Sends 25 frames a second, as live as the clock, until ``done``; the seconds it took."""
    frame, begun = frame_from_rgb(picture(64, 48, 0)), time.monotonic()
    while not done():
        assert time.monotonic() - begun < seconds, "nothing arrives"
        pts = round(Fraction(time.monotonic()) / CLOCK)
        sender.show(replace(frame, pts=pts, time_base=CLOCK))
        time.sleep(0.04)
    return time.monotonic() - begun


def times_of(path: Path) -> list[float]:
    """The timestamps of a recording that may still be growing or be cut."""
    times: list[float] = []
    try:
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                if packet.pts is not None:
                    times.append(float(packet.pts * packet.time_base))
    except (av.FFmpegError, OSError, IndexError):
        pass
    return times


@pytest.mark.parametrize("protocol", ["rtmp", "tcp"])
def test_a_relay_that_is_killed_gets_the_stream_again(protocol: str, tmp_path: Path) -> None:
    if protocol == "rtmp":
        url = f"rtmp://127.0.0.1:{free_port()}/live/key"
        peer: list[object] = ["-listen", "1", "-f", "flv", "-i", url]
    else:
        url = f"tcp://127.0.0.1:{free_port()}"
        peer = ["-f", "mpegts", "-i", f"{url}?listen=1"]
    keep = ["-copyts", "-c", "copy", "-flush_packets", "1", "-f", "mpegts", "-mpegts_copyts", "1"]
    recordings = [tmp_path / "before.ts", tmp_path / "after.ts"]
    like = frame_from_rgb(picture(64, 48, 0))
    sender = Sender(Stream(url, like, Fraction(25)))
    try:
        for recording in recordings:
            with ffmpeg(*IMPATIENT, *peer, *keep, recording):
                time.sleep(0.5)  # until it listens
                took = stream_until(sender, lambda r=recording: len(times_of(r)) > 20, 30)
            # Twenty frames are most of a second, and the peer itself needs a while to begin.
            assert took < RECOVERY + 3
            stream_until(sender, iter([False] * 15 + [True]).__next__, 10)  # into the void
    finally:
        sender.close()
    assert sender.error is None
    before, after = (times_of(recording) for recording in recordings)
    assert before == sorted(before) and after == sorted(after)
    assert after[0] > before[-1]


def test_a_source_that_is_killed_is_read_again() -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    source = ["-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=25", "-c:v", "mpeg2video"]
    serve = [*source, "-g", "5", "-f", "mpegts", "-flush_packets", "1", f"{url}?listen=1"]
    with ffmpeg(*serve):
        camera = open_patiently(url)
        frames = iter(camera)
        for _ in range(10):
            assert next(frames).width == 64
    with ffmpeg(*serve):
        begun = time.monotonic()
        late = [next(frames) for _ in range(30)]  # some were under way when it died
        assert time.monotonic() - begun < RECOVERY + 2
    camera.close()
    assert len({frame.planes[0].tobytes() for frame in late}) > 10


def open_patiently(url: str) -> LiveContainer:
    for _ in range(100):
        try:
            return LiveContainer(url)
        except InputError:
            time.sleep(0.1)
    raise AssertionError(f"{url} never answers")


def test_a_protocol_that_libav_has_not_is_told() -> None:
    like = frame_from_rgb(picture(64, 48, 0))
    try:
        av.open("srt://127.0.0.1:9", timeout=1)
    except av.error.ProtocolNotFoundError:
        with pytest.raises(OutputError, match="has not this protocol"):
            Stream("srt://127.0.0.1:9", like, Fraction(25)).show(like)
        with pytest.raises(InputError, match="has not this protocol"):
            LiveContainer("srt://127.0.0.1:9")
    except av.FFmpegError:
        pytest.skip("this libav has SRT")


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(UsageError, match="gopher"):
        Stream("gopher://here", frame_from_rgb(picture(64, 48, 0)), Fraction(25))


def test_nobody_at_the_other_end_holds_nothing_up() -> None:
    sender = Sender(
        Stream(
            f"rtmp://127.0.0.1:{free_port()}/x", frame_from_rgb(picture(64, 48, 0)), Fraction(25)
        )
    )
    assert stream_until(sender, iter([False] * 10 + [True]).__next__, 10) < 3
    sender.close()
    assert sender.error is None
