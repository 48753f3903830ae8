"""``fusematte run - -`` in a line with ffmpeg: byte-clean, in each container that pipes carry."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from fusematte.engine.errors import InputError
from fusematte.engine.media.sources import MediaSource

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is the peer")

QUIET = "ffmpeg -loglevel error -nostdin"
SOURCE = "-f lavfi -i testsrc2=size=64x48:rate=25:duration=0.4"
RUN = f"{sys.executable} -m fusematte run"


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("made", "name", "read"),
    [
        ("-f yuv4mpegpipe -pix_fmt yuv420p", "-", "-f yuv4mpegpipe"),
        ("-f yuv4mpegpipe -strict -1 -pix_fmt yuv422p10le", "-", "-f yuv4mpegpipe"),
        ("-f nut -c:v rawvideo -pix_fmt yuv444p", "-", "-f nut"),
        (
            "-f rawvideo -pix_fmt yuv420p",
            "pipe:64x48:yuv420p:25",
            "-f rawvideo -video_size 64x48 -pixel_format yuv420p -framerate 25",
        ),
    ],
    ids=["y4m", "y4m-10", "nut", "raw"],
)
def test_a_line_with_ffmpeg_at_both_ends(made: str, name: str, read: str, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    done = shell(
        f"{QUIET} {SOURCE} {made} - | {RUN} {name} - -b '#00ff00' | "
        f"{QUIET} {read} -i - -c:v ffv1 {out}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    with av.open(str(out)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 10
    assert [float(f.pts * f.time_base) for f in frames] == pytest.approx(
        np.arange(10) / 25, abs=2e-3
    )
    corner = frames[-1].to_ndarray(format="rgb24")[2, 2]
    assert corner[1] > 200 > 60 > corner[0]  # the test picture has no people


def test_not_a_byte_but_the_stream_on_standard_output() -> None:
    line = f"{QUIET} {SOURCE} -f rawvideo -pix_fmt yuv420p - | {RUN} pipe:64x48:yuv420p:25 -"
    done = shell(line)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 10 * 64 * 48 * 3 // 2
    assert b"10 frames" in done.stderr


def test_sound_goes_through_nut_packet_for_packet(tmp_path: Path) -> None:
    sound = "-f lavfi -i sine=duration=0.4 -c:a pcm_s16le"
    source, out = tmp_path / "in.nut", tmp_path / "out.nut"
    made = f"{QUIET} {SOURCE} {sound} -f nut -c:v rawvideo -pix_fmt yuv420p {source}"
    done = shell(f"{made} && {RUN} - - < {source} > {out}")
    assert done.returncode == 0, done.stderr
    assert packets(source) == packets(out) != []


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_what_is_no_video_is_told() -> None:
    done = shell(f"echo 'It was a dark and stormy night' | {RUN} -q - -")
    assert done.returncode == 3
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1 and b"standard input" in done.stderr
    with pytest.raises(InputError, match="pipe:1280x720"):
        MediaSource("pipe:yuv")


def test_a_reader_that_goes_away_ends_it() -> None:
    source = "-f lavfi -i testsrc2=size=320x240:rate=25:duration=60"
    done = shell(f"{QUIET} {source} -f yuv4mpegpipe - | {RUN} -q - - | head -c 300000 > /dev/null")
    assert b"Traceback" not in done.stderr
    assert b"cannot be written" in done.stderr or done.returncode != 0
