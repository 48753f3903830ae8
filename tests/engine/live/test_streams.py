"""Streams over 127.0.0.1 with a real peer that is killed and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from typing import IO

import av
import psutil
import pytest
from tests.helpers import picture
from tests.peers import free_port, until_listening

from fusematte.engine.errors import InputError, OutputError, UsageError
from fusematte.engine.frame import CLOCK, Frame
from fusematte.engine.live.cameras import LiveContainer
from fusematte.engine.live.outputs import Outlet, Sender
from fusematte.engine.live.stream import WHIP_TOKEN, Stream
from fusematte.engine.pipeline import Feed
from fusematte.engine.pixels.color import frame_from_rgb

RECOVERY = 5.0
"""Seconds from the peer's return, when it listens, to pictures, on an idle machine."""
PATIENCE = 60.0
"""Seconds until something has happened on a busy machine, for which nothing is promised."""
PACE = 0.04
"""Seconds between two frames."""
RUN = ("ffmpeg", "-loglevel", "error", "-nostdin", "-y")
IMPATIENT = ("-fflags", "nobuffer", "-analyzeduration", "100000", "-probesize", "20000")
"""ffmpeg would look at five seconds of a stream before it begins."""
TOLD = ("-copyts", "-c", "copy", "-f", "framecrc", "-flush_packets", "1", "-")
"""A line of text for each packet, at once: ``stream, dts, pts, ...``."""
LIKE = frame_from_rgb(picture(64, 48, 0))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread, file or child process of a stream outlives it."""
    gc.collect()  # a file of an earlier test, closed meanwhile, would be missing below
    process = psutil.Process()
    before = process.num_fds(), process.children()
    yield
    wait(lambda: not [t for t in threading.enumerate() if t.name.startswith("fusematte-")])
    wait(lambda: (process.num_fds(), process.children()) == before)
    assert (process.num_fds(), process.children()) == before


pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is the peer")


def address(protocol: str) -> str:
    return f"{protocol}://127.0.0.1:{free_port()}{'' if protocol == 'tcp' else '/live/key'}"


def port_of(url: str) -> int:
    return int(re.findall(r":(\d+)", url)[0])


@contextmanager
def listening(url: str, *command: object) -> Iterator[subprocess.Popen[str]]:
    """A peer that listens at ``url`` when the block begins, and is killed at its end."""
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
    try:
        asyncio.run(until_listening(process, port_of(url)))
        yield process
    finally:
        process.kill()
        process.communicate()


class Taker:
    """Notes the times of the packets that a peer tells of."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: list[str] = []
        assert process.stdout is not None
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, lines: IO[str]) -> None:
        with suppress(ValueError):  # the pipe was closed when the peer was killed
            self._lines.extend(lines)

    @property
    def packets(self) -> list[int]:
        return [int(line.split(",")[2]) for line in self._lines if not line.startswith("#")]


class Timed(Stream):
    """Counts the seconds in which it could try to connect by its frames: few on a busy machine."""

    def __init__(self, url: str) -> None:
        self.seconds = 0.0
        super().__init__(url, LIKE, Fraction(25))

    def show(self, frame: Frame) -> None:
        self.seconds += PACE
        super().show(frame)


@contextmanager
def streaming(outlet: Outlet) -> Iterator[Sender]:
    """Sends 25 frames a second, as live as the clock."""
    sender, stop = Sender(outlet), threading.Event()

    def run() -> None:
        while not stop.wait(PACE):
            pts = round(Fraction(time.monotonic()) / CLOCK)
            sender.show(replace(LIKE, pts=pts, time_base=CLOCK))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sender
    finally:
        stop.set()
        thread.join()
        sender.close()


def wait(done: Callable[[], bool]) -> float:
    """Waits until it is done, no longer than PATIENCE; the seconds it took."""
    begun = time.monotonic()
    while not done() and time.monotonic() - begun < PATIENCE:
        time.sleep(0.02)
    return time.monotonic() - begun


def taker(*options: str) -> tuple[str, ...]:
    """ffmpeg, which tells of each packet that it is sent."""
    return (*RUN, *IMPATIENT, *options, *TOLD)


TAKE = {
    "rtmp": lambda url: taker("-listen", "1", "-f", "flv", "-i", url),
    "rtsp": lambda url: taker("-rtsp_flags", "listen", "-i", url),
    "tcp": lambda url: taker("-f", "mpegts", "-i", f"{url}?listen=1"),
    "http": lambda url: (sys.executable, "-m", "tests.engine.live.whip_server", str(port_of(url))),
}


@pytest.mark.parametrize("protocol", list(TAKE))
def test_a_relay_that_is_killed_gets_the_stream_again(
    protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(WHIP_TOKEN, "bring-this")
    url = address(protocol)
    stream, takers = Timed(url), []
    with streaming(stream) as sender:
        for _ in range(2):
            wait(lambda: "reconnecting" in caplog.text)
            lost = stream.seconds
            wait(lambda t=lost: stream.seconds > t + 1.5)  # than the longest wait between two tries
            caplog.clear()
            with listening(url, *TAKE[protocol](url)) as peer:
                begun = stream.seconds
                takers.append(told := Taker(peer))
                wait(lambda: "is back" in caplog.text)
                assert stream.seconds - begun < RECOVERY
                wait(lambda t=told: len(t.packets) > 10)
    assert sender.error is None
    before, after = (told.packets for told in takers)
    assert len(before) > 10 and len(after) > 10
    # Of RTP's times aiortc tells those since the connection's first.
    for times in (before, after) if protocol == "http" else (before + after,):
        assert times == sorted(set(times))


@pytest.mark.parametrize("protocol", ["rtmp", "rtsp"])
def test_a_server_that_never_answers_holds_up_nobody_else(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, longest = address(protocol), 0.0
    with (
        socket.create_server(("127.0.0.1", port_of(url))),
        streaming(Stream(url, LIKE, Fraction(25))) as sender,
    ):
        last = deadline = time.monotonic()
        while "no answer" not in caplog.text and time.monotonic() - deadline < PATIENCE:
            time.sleep(0.02)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert "no answer for 3 s" in caplog.text
    assert sender.error is None
    assert longest < 2.5  # of three seconds


def test_a_stream_is_told_once_that_it_is_lost_and_once_that_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = address("tcp")
    with streaming(Stream(url, LIKE, Fraction(25))):
        wait(lambda: "reconnecting" in caplog.text)
        with listening(url, *TAKE["tcp"](url)) as peer:
            told = Taker(peer)
            wait(lambda: bool(told.packets))
    said = [record.message for record in caplog.records]
    assert [url in line for line in said] == [True, True], said
    assert "refused" in said[0] and said[1].endswith("is back")


def test_without_its_token_a_whip_server_is_not_reached(caplog: pytest.LogCaptureFixture) -> None:
    url = address("http")
    with listening(url, *TAKE["http"](url)), streaming(Stream(url, LIKE, Fraction(25))):
        wait(lambda: "401" in caplog.text)
    assert f"{url}: cannot be reached" in caplog.text and "401" in caplog.text


SOURCE = ("-re", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=25", "-c:v", "libx264", "-bf", "0")
# Key frames ten seconds apart: what is read to get to know the stream has the only one for long.
GIVE = {
    "rtmp": lambda url: (*RUN, *SOURCE, "-g", "250", "-f", "flv", "-listen", "1", url),
    "tcp": lambda url: (*RUN, *SOURCE, "-g", "250", "-f", "mpegts", f"{url}?listen=1"),
    "rtsp": lambda url: (
        sys.executable,
        "-m",
        "tests.engine.live.rtsp_server",
        url.split(":")[2].split("/")[0],
    ),
}


@pytest.mark.parametrize("protocol", list(GIVE))
def test_a_source_that_is_killed_is_read_again(protocol: str) -> None:
    url = address(protocol)
    came: list[bytes] = []
    with listening(url, *GIVE[protocol](url)):
        begun = time.monotonic()
        camera = LiveContainer(url)
        first = time.monotonic() - begun
        assert first < 4 * RECOVERY  # libav would look at FLV for minutes
        feed = Feed(
            "camera", camera, lambda f: came.append((time.monotonic(), f.planes[0].tobytes()))
        )
        wait(lambda: len(came) > 20)
    time.sleep(1.5)
    count = len(came)
    with listening(url, *GIVE[protocol](url)):
        # The first time tells how busy the machine is: nothing had to be waited for.
        assert wait(lambda: len(came) > count) < RECOVERY + first
        wait(lambda: len(came) > count + 20)
    camera.close()
    feed.close(RECOVERY)
    assert feed.ended.is_set() and feed.error is None
    assert len(set(came[count:])) > 10


def test_a_protocol_that_libav_has_not_is_told() -> None:
    try:
        av.open("srt://127.0.0.1:9", timeout=1)
    except av.error.ProtocolNotFoundError:
        with (
            contextlib.closing(Stream("srt://127.0.0.1:9", LIKE, Fraction(25))) as stream,
            pytest.raises(OutputError, match="does not support the protocol"),
        ):
            stream.show(LIKE)
        with pytest.raises(InputError, match="does not support the protocol"):
            LiveContainer("srt://127.0.0.1:9")
    except av.FFmpegError:
        pytest.skip("this libav has SRT")


def test_unknown_protocols_are_refused() -> None:
    with pytest.raises(UsageError, match="gopher"):
        Stream("gopher://here", LIKE, Fraction(25))


def test_what_whip_cannot_do_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = frame_from_rgb(picture(63, 48, 0))
    with pytest.raises(OutputError, match="even size, not 63x48"):
        Stream("https://127.0.0.1/live", odd, Fraction(25))
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(OutputError, match=r"fusematte\[live\]"):
        Stream("https://127.0.0.1/live", LIKE, Fraction(25))


def test_nobody_at_the_other_end_holds_nothing_up() -> None:
    with streaming(Stream(address("rtmp"), LIKE, Fraction(25))) as sender:
        time.sleep(1)
        begun = time.monotonic()
        sender.show(LIKE)
        assert time.monotonic() - begun < 2.5  # of the three that a connection may take
    assert sender.error is None
