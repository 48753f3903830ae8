"""Sound of a live source arrives in recordings and streams, in time with its pictures."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from tests.engine.live.test_run import everything_is_people
from tests.peers import HookedMatter, free_port, until_listening

from fusematte.engine.frame import CLOCK, Frame
from fusematte.engine.live.cameras import Camera, LiveContainer, open_camera
from fusematte.engine.live.outputs import Outlet
from fusematte.engine.live.recording import Recording
from fusematte.engine.live.run import LiveRun
from fusematte.engine.live.session import Session
from fusematte.engine.live.sound import LATE, RATE, Offset, Sound
from fusematte.engine.live.stream import WHIP_TOKEN, Stream

SOURCE_RATE, SECONDS = 44_100, 5
FLASHES = (30, 50, 70, 90, 110)
"""Numbers of pictures of the clip that are bright, with a click."""
TOGETHER = 0.125
"""Seconds by which sound may be late before anybody notices (ITU-R BT.1359)."""

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is the peer")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds, 25 pictures a second: black and quiet but for flashes with a click."""
    path = tmp_path_factory.mktemp("sound") / "flash.mp4"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25, options={"bf": "0", "g": "25"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio: Any = container.add_stream("aac", rate=SOURCE_RATE)
        audio.layout = "stereo"
        length = SOURCE_RATE // 25
        for index in range(SECONDS * 25):
            bright = any(index - flash in range(3) for flash in FLASHES)
            rgb = np.full((48, 64, 3), 255 if bright else 10, np.uint8)
            picture = av.VideoFrame.from_ndarray(rgb, "rgb24")
            picture.pts = index
            container.mux(video.encode(picture))
            samples = np.zeros((2, length), np.float32)
            if index in FLASHES:
                samples[:, :400] = 0.9 * np.sin(np.arange(400) / 8)
            sound = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
            sound.sample_rate, sound.pts = SOURCE_RATE, index * length
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


@pytest.fixture
def like(clip: Path) -> Iterator[Frame]:
    with closing(open_camera(str(clip))) as camera:
        yield camera.like


@pytest.fixture(scope="module")
def session(clip: Path) -> Iterator[Session]:
    """A session that keeps everything, so that flashes come out, and is warm."""
    with HookedMatter() as matter, Session("green", matter=matter) as session:
        matter.hook = everything_is_people
        session.push(next(iter(open_camera(str(clip)))))
        session.get(300)
        yield session


def record(camera: Camera, session: Session, *outlets: Outlet, keys: Any = str) -> float:  # noqa: ANN401
    """Returns by how many seconds flashes may be late: as much as the run is, on a busy machine."""
    begun = time.monotonic()
    LiveRun(camera, session, outlets, ["green"], keys=keys).run()
    return TOGETHER + max(0.0, time.monotonic() - begun - SECONDS)


def lateness(path: Path) -> float:
    """By how many seconds a click is heard before or after its flash.

    A busy machine shows some pictures late, or not at all: the best of five counts.
    """
    flashes, clicks = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0], container.streams.audio[0]):
            assert frame.time is not None
            if isinstance(frame, av.VideoFrame):
                if np.asarray(frame.to_ndarray(format="gray")).mean() > 150:
                    flashes.append(frame.time)
            elif (loud := np.abs(frame.to_ndarray()).max(0) > 0.3).any():
                clicks.append(frame.time + loud.argmax() / frame.sample_rate)
    begins = [b for a, b in pairwise([-1.0, *flashes]) if b - a > 0.3]
    return min(abs(click - begin) for click in clicks for begin in begins)


def test_recordings_have_the_sound_of_a_file(tmp_path: Path, clip: Path, session: Session) -> None:
    camera = open_camera(str(clip))
    assert camera.has_sound
    paths = [tmp_path / f"out{suffix}" for suffix in (".mkv", ".mp4", ".mov", ".ts", ".flv")]
    outlets = [Recording(path, camera.like, camera.rate, has_sound=True) for path in paths]
    quiet = Recording(tmp_path / "q.mkv", camera.like, camera.rate)
    allowed = record(camera, session, *outlets, quiet)
    for path in paths:
        assert lateness(path) < allowed, path
    with av.open(str(tmp_path / "q.mkv")) as container:
        assert not container.streams.audio


WAIT = 1.5
"""Seconds that a recording goes on after its source has ended."""
SERVE = ("ffmpeg", "-loglevel", "error", "-nostdin", "-y", "-re", "-i")
GIVE = {
    "rtmp": ("-f", "flv", "-listen", "1"),
    "tcp": ("-f", "mpegts"),
}
TAKE = {
    "rtmp": ("-listen", "1", "-f", "flv", "-i"),
    "rtsp": ("-rtsp_flags", "listen", "-i"),
    "tcp": ("-f", "mpegts", "-i"),
}


def address(protocol: str) -> tuple[str, str]:
    """A URL, and the same for him who listens."""
    url = f"{protocol}://127.0.0.1:{free_port()}"
    return (url, f"{url}?listen=1") if protocol == "tcp" else (f"{url}/live/key",) * 2


def listening(url: str, *command: object) -> subprocess.Popen[str]:
    process = subprocess.Popen([*map(str, command)], text=True, stdout=subprocess.PIPE)
    asyncio.run(until_listening(process, int(url.split(":")[2].split("/")[0])))
    return process


@needs_ffmpeg
def test_streams_have_the_sound_of_a_file(tmp_path: Path, clip: Path, session: Session) -> None:
    with ExitStack() as stack:
        camera, outlets, takers = open_camera(str(clip)), [], []
        for protocol, options in TAKE.items():
            url, listener = address(protocol)
            take = ("ffmpeg", "-loglevel", "error", "-nostdin", "-y", *options, listener)
            command = (*take, "-c", "copy", tmp_path / f"{protocol}.mkv")
            takers.append(stack.enter_context(listening(url, *command)))
            outlets.append(Stream(url, camera.like, camera.rate, has_sound=True))
        for outlet in outlets:
            outlet.show(camera.like)  # connects, for which a busy machine needs seconds
        allowed = record(camera, session, *outlets)
        for taker in takers:
            taker.wait(20)
    for protocol in TAKE:
        assert lateness(tmp_path / f"{protocol}.mkv") < allowed, protocol


@needs_ffmpeg
@pytest.mark.parametrize("protocol", list(GIVE))
def test_a_recording_has_the_sound_of_a_stream(
    protocol: str, tmp_path: Path, clip: Path, session: Session
) -> None:
    (url, listener), output = address(protocol), tmp_path / "out.mkv"
    quits: list[float] = []

    def quit_at_the_end() -> str:
        """Some time after the stream's end, which is only a pause to a live source."""
        if not quits and server.poll() is not None:
            quits.append(time.monotonic() + WAIT)
        return "q" if quits and time.monotonic() > quits[0] else ""

    with listening(url, *SERVE, clip, "-c", "copy", *GIVE[protocol], listener) as server:
        camera = LiveContainer(url)
        assert camera.has_sound
        outlet = Recording(output, camera.like, camera.rate, has_sound=True)
        allowed = record(camera, session, outlet, keys=quit_at_the_end)
    assert lateness(output) < max(TOGETHER, allowed - WAIT)
    ends = [0.0, 0.0]
    with av.open(str(output)) as container:  # while the source is gone there is silence
        for packet in container.demux():
            if packet.pts is not None:
                ends[packet.stream_index] = float(packet.pts * packet.time_base)
    assert abs(ends[0] - ends[1]) < LATE + 0.2


def test_whip_sends_opus(monkeypatch: pytest.MonkeyPatch, like: Frame) -> None:
    pytest.importorskip("aiortc")
    monkeypatch.setenv(WHIP_TOKEN, "bring-this")
    port, kinds = free_port(), set()

    def read(server: subprocess.Popen[str]) -> None:
        assert server.stdout is not None
        for line in server.stdout:
            kinds.add(line.split(",")[0])

    url = f"http://127.0.0.1:{port}/live/key"
    server = listening(url, sys.executable, "-m", "tests.engine.live.whip_server", port)
    reader = threading.Thread(target=read, args=(server,))
    reader.start()
    try:
        with closing(Stream(url, like, Fraction(25), has_sound=True)) as stream:
            begun = time.monotonic()
            while kinds != {"0", "1"} and (seconds := time.monotonic() - begun) < 40:
                stream.show(replace(like, pts=round(seconds / CLOCK), time_base=CLOCK))
                stream.hear(tone(seconds, 0.04))
                time.sleep(0.04)
    finally:
        server.kill()
        server.wait()
        reader.join()
    assert kinds == {"0", "1"}


def tone(time: float, seconds: float = 0.1) -> Sound:
    return Sound(np.full((2, round(seconds * RATE)), 0.5, np.float32), time)


def test_gaps_are_silent_and_repeated_sound_is_left_out(tmp_path: Path, like: Frame) -> None:
    output = tmp_path / "out.mkv"
    with closing(Recording(output, like, Fraction(25), has_sound=True)) as recording:
        recording.hear(tone(9.9))  # before the first picture
        for index in range(100):
            seconds = 10 + index / 25
            recording.show(replace(like, pts=round(seconds / CLOCK), time_base=CLOCK))
            if 10.5 <= seconds < 11 or 12 <= seconds < 12.5:
                recording.hear(tone(seconds, 0.04))
                recording.hear(tone(seconds - 1, 0.04))
    with av.open(str(output)) as container:
        parts = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    level = np.abs(np.concatenate(parts))
    loud = [level[round(at * RATE)] > 0.2 for at in (0.25, 0.75, 1.5, 2.25, 2.75)]
    assert loud == [False, True, False, True, False]
    assert abs(level.size / RATE - (4 - LATE)) < 0.1


def test_the_offset_is_a_median_and_leaps() -> None:
    offset = Offset()
    assert offset.moved(tone(0)) is None
    rng = np.random.default_rng(0)
    for index in range(200):
        offset.note(index / 25, 100 + index / 25 + float(rng.uniform(0, 0.1)))
    moved = offset.moved(tone(5))
    assert moved is not None and abs(moved.time - 105.05) < 0.04
    offset.note(0, 200)
    moved = offset.moved(tone(5))
    assert moved is not None and moved.time == 205
