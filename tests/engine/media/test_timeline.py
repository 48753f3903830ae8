"""Clocks that break: every frame comes out, and sound and pictures stay together."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import content, make_clip, transcode
from tests.media.corpus import KINDS, retimed

from fusematte.engine.errors import TruncatedInputError
from fusematte.engine.media import segments
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.timeline import FrameClock

MS = Fraction(1, 1000)


def times_of(path: Path) -> list[Fraction]:
    with Reader(path) as reader:
        return [frame.time - reader.origin for frame in reader]


def test_equal_times_are_rebuilt_from_the_rate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = retimed(tmp_path / "in.mkv", [0] * 20)
    assert times_of(clip) == [40 * MS * index for index in range(20)]
    assert len(caplog.messages) == 1 and "rebuilt" in caplog.messages[0]


def test_good_times_pass_untouched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    times: list[int | None] = [0, 7, 100, 101, 5000, 5040]
    assert times_of(retimed(tmp_path / "in.mkv", times)) == [MS * (t or 0) for t in times]
    assert not caplog.messages


def test_a_repeated_time_is_caught_up_with() -> None:
    clock = FrameClock()
    given = [0, 40, 40, 80, 120, 160, 200]
    assert [clock(pts, 40) for pts in given] == [0, 40, 80, 100, 120, 160, 200]
    assert clock.rebuilt == 2


def test_missing_times() -> None:
    clock = FrameClock()
    assert [clock(pts, 40) for pts in (80, None, None, 200)] == [80, 120, 160, 200]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("times-")])
def test_every_frame_comes_out(name: str, suffix: str, tmp_path: Path) -> None:
    source = KINDS[name].make(tmp_path)
    try:
        transcode(source, tmp_path / f"out{suffix}")
        output = tmp_path / f"out{suffix}"
    except TruncatedInputError:  # single packets with wrong times are damage
        output = tmp_path / f"out{suffix}.part"
    found = content(output).times
    assert len(found) == KINDS[name].frames
    assert found == sorted(set(found))


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
@pytest.mark.parametrize("kind", [name for name in KINDS if name.startswith("joined_")])
def test_joined_recordings_go_on_with_one_offset(kind: str, suffix: str, tmp_path: Path) -> None:
    """The second part lies as far from its sound as the first; the gap is that of the streams."""
    source, output = KINDS[kind].make(tmp_path), tmp_path / f"out{suffix}"
    transcode(source, output, audio=True)
    found = content(output)
    half = len(found.times) // 2
    gaps = np.diff([float(time) for time in found.times])
    assert max(np.delete(gaps, half - 1)) < 0.06 and gaps[half - 1] < 0.25
    sound = [float(time) for _, _, time in found.packets]
    assert max(np.diff(sound)) < 0.1
    assert abs(float(found.times[-1]) - sound[-1]) < 0.2
    apart = abs(float(found.times[0]) - sound[0])
    again = min(abs(float(found.times[half]) - time) for time in sound)
    assert abs(apart - again) < 0.05


def test_a_joined_recording_is_one_segment(tmp_path: Path) -> None:
    source = KINDS["joined_ts"].make(tmp_path)
    with Reader(source) as reader:
        assert len(segments.plan(reader, 5).spans) == 1


def test_a_part_of_a_joined_recording(tmp_path: Path) -> None:
    """Times count over the joint."""
    source = KINDS["joined_ts"].make(tmp_path)
    whole = times_of(source)
    start = whole[18] - whole[0]
    with Reader(source, start=start) as reader:
        assert sum(1 for _ in reader) == len(whole) - 18


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
@pytest.mark.parametrize("frames", [None, 10])
def test_a_clock_that_wraps(suffix: str, frames: int | None, tmp_path: Path) -> None:
    """The 33 bits of a transport stream run over: in one piece, and cut into segments."""
    source = wrapping(tmp_path / "in.ts")
    with Reader(source) as reader:
        assert reader.origin < 0
        plan = segments.plan(reader, frames)
    assert len(plan.spans) == (1 if frames is None else 3)
    found = []
    for span in plan.spans:
        with Reader(source) as reader:
            reader.seek(span.begin)
            for frame in reader:
                if span.begin <= frame.pts and (span.end is None or frame.pts < span.end):
                    found.append(frame.time - reader.origin)
    assert found == [Fraction(index, 25) for index in range(30)]
    transcode(source, tmp_path / f"out{suffix}")
    assert len(content(tmp_path / f"out{suffix}").times) == 30


def wrapping(path: Path) -> Path:
    """A transport stream of 30 frames whose clock runs over after 14 of them."""
    make_clip(path, frames=30, options={"g": "5", "keyint_min": "5", "bf": "0"})
    data, shift = bytearray(path.read_bytes()), None
    for start in range(0, len(data), 188):
        at = start + 4 + (1 + data[start + 4] if data[start + 3] & 0x20 else 0)
        if data[start + 1] & 0x40 and data[at : at + 3] == b"\0\0\1":
            if shift is None:
                shift = (1 << 33) - 14 * 3600 - _stamp(data, at + 9)
            _put(data, at + 9, _stamp(data, at + 9) + shift)
    path.write_bytes(data)
    return path


def _stamp(data: bytearray, at: int) -> int:
    a, b, c = struct.unpack_from(">BHH", data, at)
    return (a >> 1 & 7) << 30 | (b >> 1) << 15 | c >> 1


def _put(data: bytearray, at: int, stamp: int) -> None:
    stamp &= (1 << 33) - 1
    first = data[at] & 0xF1 | (stamp >> 30) << 1
    middle, last = (stamp >> 15 & 0x7FFF) << 1 | 1, (stamp & 0x7FFF) << 1 | 1
    struct.pack_into(">BHH", data, at, first, middle, last)


def test_one_packet_of_sound_that_goes_back(tmp_path: Path) -> None:
    """The rest of the job is not lost for it."""
    clip = make_clip(tmp_path / "in.mkv", frames=50, audio=True)
    data = bytearray(clip.read_bytes())
    blocks = [at for at in range(len(data) - 4) if data[at] == 0x82 and data[at + 3] == 0x80]
    block = blocks[len(blocks) // 2]
    struct.pack_into(">h", data, block + 1, 0)
    clip.write_bytes(data)
    before = content(make_clip(tmp_path / "good.mkv", frames=50, audio=True))
    with pytest.raises(TruncatedInputError):
        transcode(clip, tmp_path / "out.mp4", audio=True)
    found = content(tmp_path / "out.mp4.part")
    assert len(found.times) == 50
    assert len(found.packets) == len(before.packets)
    sound = [float(time) for _, _, time in found.packets]
    assert min(np.diff(sound)) > 0 and max(np.diff(sound)) < 0.05
