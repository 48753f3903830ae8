"""The Reader: what it tells about a file, what it gives, and how it fails."""

from __future__ import annotations

import gc
import re
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from tests.helpers import content, cut, make_clip, picture, transcode
from tests.media.corpus import KINDS

from fusematte.engine.errors import InputError, TruncatedInputError
from fusematte.engine.frame import Color, Frame
from fusematte.engine.media.av_frames import frame_of
from fusematte.engine.media.reader import Reader


def read(path: Path) -> list[Frame]:
    with Reader(path) as reader:
        return list(reader)


def test_describes_the_file(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "a.mp4",
        rate=Fraction(30000, 1001),
        frames=9,
        rotation=90,
        aspect=Fraction(4, 3),
        color=(9, 9, 16, 1),
        audio=True,
        metadata={"title": "Ä"},
        muxer={"movie_timescale": "30000"},
    )
    with Reader(path) as reader:
        assert (reader.width, reader.height, reader.format.name) == (64, 48, "yuv420p")
        assert reader.color == Color(9, 9, 16, full_range=False)
        assert (reader.rotation, reader.aspect) == (90, Fraction(4, 3))
        assert reader.frame_rate == Fraction(30000, 1001)
        assert reader.frame_count == 9
        assert reader.duration == 9 * Fraction(1001, 30000)
        assert [stream.name for stream in reader.audio_streams] == ["aac"]
        assert reader.metadata["title"] == "Ä"


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_is_clockwise(tmp_path: Path, rotation: int) -> None:
    frames = read(make_clip(tmp_path / "a.mp4", frames=1, rotation=rotation))
    assert frames[0].rotation == rotation


@pytest.mark.parametrize(
    "name", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
)
@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1)])
def test_planes_are_the_decoders_own(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    width, height = size
    path = make_clip(
        tmp_path / "a.mkv", width=width, height=height, frames=3, codec="ffv1", pixel_format=name
    )
    frames = read(path)
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    for frame, decoded in zip(frames, pictures, strict=True):
        assert frame.format.name == name
        assert frame.planes[0].shape == (height, width)
        assert frame.planes[1].shape == frame.format.chroma_shape(height, width)
        for plane, theirs in zip(frame.planes, decoded.planes, strict=True):
            assert plane.dtype == frame.format.dtype
            assert not plane.flags.owndata
            assert not plane.flags.writeable
            size_in_bytes = plane.shape[1] * plane.itemsize
            rows = np.frombuffer(theirs, np.uint8).reshape(plane.shape[0], -1)[:, :size_in_bytes]
            assert np.ascontiguousarray(plane).tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    ("codec", "name", "expected"),
    [
        ("rawvideo", "nv12", "yuv420p"),
        ("rawvideo", "yuyv422", "yuv422p"),
        ("rawvideo", "bgr24", "yuv444p"),
        ("ffv1", "gray", "yuv420p"),
        ("ffv1", "gray10le", "yuv420p10le"),
        ("ffv1", "yuva444p", "yuv444p"),
        ("ffv1", "yuv420p12le", "yuv420p10le"),
        ("ffv1", "gbrp10le", "yuv444p10le"),
        ("ffv1", "yuv411p", "yuv422p"),
    ],
)
def test_other_formats_become_the_nearest(
    tmp_path: Path, codec: str, name: str, expected: str
) -> None:
    suffix = ".mkv" if codec == "ffv1" else ".nut"
    path = make_clip(tmp_path / f"a{suffix}", frames=2, codec=codec, pixel_format=name)
    plain = make_clip(tmp_path / "b.mkv", frames=2, codec="ffv1", pixel_format="yuv444p")
    frame, reference = read(path)[0], read(plain)[0]
    assert frame.format.name == expected
    black, span, _, _ = frame.levels
    luma = (frame.planes[0] - black) / span
    black, span, _, _ = reference.levels
    np.testing.assert_allclose(luma, (reference.planes[0] - black) / span, atol=0.02)


def test_rgb_is_tagged_as_what_it_becomes(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.nut", frames=1, codec="rawvideo", pixel_format="bgr24")
    assert read(path)[0].color == Color(matrix=6, full_range=False)


def test_full_range_stays_as_it_is(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", frames=1, codec="mjpeg", pixel_format="yuvj420p")
    frame = read(path)[0]
    assert frame.format.name == "yuv420p"
    assert frame.color.full_range
    assert not frame.planes[0].flags.owndata


def test_frames_outlive_the_reader(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", codec="ffv1")
    frames = read(path)
    sums = [int(frame.planes[0].sum()) for frame in frames]
    assert sums == [int(frame.planes[0].sum()) for frame in read(path)]
    assert len(set(sums)) > 1


def test_pictures_are_free_as_soon_as_nobody_needs_them(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", frames=4)

    def pictures() -> list[object]:
        return [one for one in gc.get_objects() if type(one) is av.VideoFrame]

    gc.collect()
    gc.disable()
    try:
        before = len(pictures())
        assert len(read(path)) == 4
        assert len(pictures()) == before
    finally:
        gc.enable()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts", ".flv"])
@pytest.mark.parametrize("start", [0, 12345])
def test_timestamps_are_the_containers(tmp_path: Path, suffix: str, start: int) -> None:
    times = [0, 40, 75, 1000, 1001, 1200, 1300, 1800]
    path = make_clip(tmp_path / f"a{suffix}", times=times, time_base=Fraction(1, 1000), start=start)
    frames = read(path)
    expected = content(path)
    assert [frame.time for frame in frames] == expected.times
    assert [frame.duration * frame.time_base for frame in frames] == expected.durations
    gaps = [frame.time - frames[0].time for frame in frames]
    assert gaps == [Fraction(time, 1000) for time in times]


def test_missing_timestamps_are_filled_in(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.h264", frames=6)
    assert [frame.time * 25 for frame in read(path)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_has_regular_timestamps(tmp_path: Path, codec: str) -> None:
    path = make_clip(tmp_path / "a.avi", frames=6, codec=codec, options={"bf": "0"})
    assert [frame.pts for frame in read(path)] == [0, 1, 2, 3, 4, 5]


def test_items_hands_on_audio_in_file_order(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv", audio=["aac", "flac"])
    with Reader(path) as reader:
        items = list(reader.items())
    packets = [item for item in items if not isinstance(item, Frame)]
    assert len(items) - len(packets) == 12
    got = [(p.stream_index, bytes(p), (p.pts or 0) * p.time_base) for p in packets]
    assert got == content(path).packets


def test_iterating_goes_once_through_the_file(tmp_path: Path) -> None:
    with Reader(make_clip(tmp_path / "a.mp4", audio=True)) as reader:
        first = next(iter(reader))
        rest = list(reader)
    assert [first.pts, rest[0].pts] == [0, 512]
    assert len(rest) == 11


def test_hidden_frames_of_an_edit_list_are_not_missed(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=20, options={"g": "20"})
    path = tmp_path / "edit.mp4"
    with av.open(str(source)) as read_from, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(read_from.streams.video[0])
        for packet in read_from.demux(video=0):
            if packet.size:
                packet.pts = (packet.pts or 0) - 5 * 512
                packet.dts = (packet.dts or 0) - 5 * 512
                packet.stream = stream
                written.mux(packet)
    with Reader(path) as reader:
        assert reader.frame_count == len(list(reader)) == 15


def test_name_with_a_colon(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4")
    assert len(read(path.rename(tmp_path / "http:a.mp4"))) == 12


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Reader(tmp_path / "a.mp4")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        Reader(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.touch()
    with pytest.raises(InputError, match="is empty"):
        Reader(path)


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("not a video\n" * 100)
    with pytest.raises(InputError, match="is not a readable video"):
        Reader(path)


def test_audio_only(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(
            np.zeros((2, 1024), np.float32), format="fltp", layout="stereo"
        )
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="has no video"):
        Reader(path)


def test_lost_index(tmp_path: Path) -> None:
    path = cut(make_clip(tmp_path / "a.mp4"), 0.6)
    with pytest.raises(InputError, match="has no index"):
        Reader(path)


def test_nothing_decodable(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=2, muxer={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    data[begin:] = bytes(len(data) - begin)
    path.write_bytes(data)
    with pytest.raises(InputError, match="no decodable picture"):
        Reader(path)


def test_changing_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small, large = make_clip(tmp_path / "a.h264"), make_clip(tmp_path / "b.h264", width=96)
    both = tmp_path / "c.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with Reader(both) as reader:
        frames = list(reader)
    assert len(frames) == 24
    assert {(frame.width, frame.height) for frame in frames} == {(64, 48)}
    told = [message for message in caplog.messages if "the size changes" in message]
    assert len(told) == 1 and re.search(r"of 96x48, as at 0\.\d\d s, .*to 64x48", told[0])
    with Reader(large) as reader:
        whole = next(iter(reader)).planes[0]
    middle = whole[:, 16:80].astype(float)  # of twice the width the sides are cropped
    assert np.abs(frames[12].planes[0] - middle).mean() < 3


MIRRORED = {
    "left and right": ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
    "top and bottom": ((1, 0, 0, -1), lambda picture: picture[::-1]),
    "transposed": ((0, 1, 1, 0), lambda picture: picture.T),
    "transversed": ((0, -1, -1, 0), lambda picture: picture[::-1, ::-1].T),
    "a quarter turn": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
}


@pytest.mark.parametrize("name", MIRRORED)
def test_display_matrices(tmp_path: Path, name: str) -> None:
    """Frames, turned by their rotation, are what a player shows; so is what is written of them."""
    (a, b, c, d), shown = MIRRORED[name]
    clip = make_clip(tmp_path / "in.mp4", frames=3, width=48, height=32)
    with Reader(clip) as reader:
        expected = shown(next(iter(reader)).planes[0])
    data = bytearray(clip.read_bytes())
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    struct.pack_into(">9i", data, data.find(b"tkhd") + 44, *matrix)
    clip.write_bytes(data)
    transcode(clip, tmp_path / "out.mp4", crf=5)
    for path in (clip, tmp_path / "out.mp4"):
        with Reader(path) as reader:
            frame = next(iter(reader))
        upright = np.rot90(frame.planes[0].astype(float), -frame.rotation // 90)
        assert upright.shape == expected.shape
        assert np.abs(upright - expected).mean() < 3


def test_alpha_by_any_spelling_of_its_tag(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.webm", frames=3, codec="libvpx-vp9", pixel_format="yuva420p")
    with av.open(str(clip)) as source, av.open(str(tmp_path / "in.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.metadata["ALPHA_MODE"] = "1"
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    for path in (clip, tmp_path / "in.mkv"):
        with Reader(path) as reader:
            assert reader.has_alpha, path


@pytest.mark.parametrize(
    ("suffix", "muxer"),
    [
        (".mp4", {"movflags": "faststart"}),
        (".mp4", {"movflags": "frag_keyframe+empty_moov"}),
        (".mkv", {}),
        (".webm", {}),
        (".ts", {}),
        (".flv", {}),
        (".avi", {}),
    ],
)
@pytest.mark.parametrize("share", [0.6, 0.93])
def test_file_that_breaks_off(
    tmp_path: Path, suffix: str, muxer: dict[str, str], share: float
) -> None:
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    whole = make_clip(
        tmp_path / f"a{suffix}",
        width=160,
        height=120,
        frames=40,
        codec=codec,
        options={"g": "10", "deadline": "realtime"} if suffix == ".webm" else {"g": "10"},
        muxer=muxer,
    )
    assert len(read(whole)) == 40
    frames: list[Frame] = []
    with Reader(cut(whole, share)) as reader, pytest.raises(TruncatedInputError) as caught:
        frames.extend(reader)
    # The exact number is the demuxer's affair, but most of what is there must come.
    assert 5 <= len(frames) < 40
    assert f" {len(frames)} " in str(caught.value)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_damage_in_the_middle(tmp_path: Path, suffix: str) -> None:
    path = make_clip(
        tmp_path / f"a{suffix}", width=320, height=240, frames=40, options={"g": "5"}, audio=True
    )
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.is_keyframe]
        begin, size = packets[3].pos, packets[3].size
    assert begin is not None
    data = bytearray(path.read_bytes())
    data[begin + 500 : begin + size // 2] = np.random.default_rng(0).bytes(size // 2 - 500)
    path.write_bytes(data)
    frames: list[Frame] = []
    with Reader(path) as reader, pytest.raises(TruncatedInputError, match="damaged"):
        frames.extend(reader)
    assert len(frames) >= 30
    assert frames[-1].time - frames[0].time == Fraction(39, 25)
    assert all(a.pts < b.pts for a, b in pairwise(frames))


@pytest.mark.parametrize("muxer", [{}, {"live": "1"}])
def test_last_frame_shown_long_is_no_cut(tmp_path: Path, muxer: dict[str, str]) -> None:
    path = make_clip(
        tmp_path / "a.mkv",
        times=[0, 40, 80, 5000],
        time_base=Fraction(1, 1000),
        audio=True,
        muxer=muxer,
    )
    assert len(read(path)) == 4


def test_damaged_file_says_nothing_of_its_own() -> None:
    """libav's messages stay off standard error: the caller prints one line."""
    code = (
        "import sys, pathlib, tempfile\n"
        "from fusematte.engine.media.reader import Reader\n"
        "p = pathlib.Path(tempfile.mkdtemp()) / 'a.mp4'\n"
        "p.write_bytes(b'text')\n"
        "try: Reader(p)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "InputError\n"
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["m1.mp4", "d12.mp4", "d0.mp4"])
def test_real_clips(shared_clips: Path, name: str) -> None:
    expected = content(shared_clips / name)
    with Reader(shared_clips / name) as reader:
        items = list(reader.items())
    frames = [item for item in items if isinstance(item, Frame)]
    assert [frame.time for frame in frames] == expected.times
    assert len(frames) == reader.frame_count
    assert len(items) - len(frames) == len(expected.packets)


ATSC = b"\xb5\0\x31"
MESSAGES = {
    "closed captions": (4, ATSC + b"GA94\x03\x42\xff\xfc\x94\x20\xfc\xc8\x49\xff"),
    "active format description": (4, ATSC + b"DTG1\x41\xfa"),
    "user data": (5, b"sixteen octets.." + b"where the drone was"),
    "ambient viewing environment": (148, bytes.fromhex("0000274c3d133d13")),
    "stereo 3D tags": (45, bytes.fromhex("818101555556")),
}
"""Supplemental messages of H.264: type and payload."""


@pytest.mark.parametrize("name", MESSAGES)
def test_side_data_that_does_not_come_out_is_named(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a message before every slice; what x264 says of itself is not worth a word."""
    clip = make_clip(tmp_path / "in.h264", options={"x264-params": "annexb=1:slices=1"})
    kind, payload = MESSAGES[name]
    message = b"\0\0\0\1\6" + bytes([kind, len(payload)]) + payload + b"\x80"
    units = re.split(rb"\x00\x00\x00?\x01", clip.read_bytes())[1:]
    slices = (1, 5)
    clip.write_bytes(
        b"".join(
            (message if unit[0] & 31 in slices else b"") + b"\0\0\0\1" + unit for unit in units
        )
    )
    assert len(read(clip)) == 12
    assert [text for text in caplog.messages if "not copied" in text] == [
        f"{clip}: not copied: {name}"
    ]


def test_a_profile_that_does_not_come_out_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pictures in a folder, with an ICC profile, whose name crashed the process when both libav
    and PyAV freed it."""
    for index in range(2):
        file = tmp_path / f"{index}.png"
        cv2.imwrite(str(file), picture(64, 48, index))
        data, profile = file.read_bytes(), b"mine\0\0" + zlib.compress(bytes(128))
        chunk = b"iCCP" + profile
        chunk = len(profile).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
        file.write_bytes(data[:33] + chunk + data[33:])
    for _ in range(5):
        assert len(read(tmp_path)) == 2
        gc.collect()
    assert [text for text in caplog.messages if "not copied: ICC profile" in text]
    with av.open(str(tmp_path / "0.png")) as container:  # as a session may be given it
        assert frame_of(next(container.decode(video=0))).width == 64
    gc.collect()


def test_sound_does_not_change_the_rate(tmp_path: Path) -> None:
    """MP3 in AVI."""
    clip = make_clip(tmp_path / "in.avi", codec="mpeg4", audio=("mp3",))
    with Reader(clip) as reader:
        assert reader.frame_rate == 25
        assert len(list(reader)) == 12


def test_a_rate_beyond_belief(tmp_path: Path) -> None:
    """The demuxer of DV counts units of its clock for pictures."""
    clip = make_clip(
        tmp_path / "in.dv", width=720, height=576, codec="dvvideo", frames=5,
        options={"flags": "-ildct"},
    )  # fmt: skip
    with Reader(clip) as reader:
        assert reader.frame_rate == 25
        assert len(list(reader)) == 5


@pytest.mark.timeout(60)
def test_a_damaged_video_can_be_left_at_once(tmp_path: Path) -> None:
    clip = KINDS["damaged_picture_in_a_thread"].make(tmp_path)
    for _ in range(20):
        Reader(clip).close()


def test_an_interlaced_video_that_changes_its_size(tmp_path: Path) -> None:
    """The filter is set up anew; it would read beyond the smaller pictures' end."""
    options = {"flags": "+ildct", "x264-params": "tff=1:annexb=1:repeat-headers=1"}
    parts = []
    for width in (128, 64, 96):
        part = make_clip(tmp_path / "part.h264", width=width, height=64, frames=4, options=options)
        parts.append(part.read_bytes())
    clip = tmp_path / "in.h264"
    clip.write_bytes(b"".join(parts))
    frames = read(clip)
    assert len(frames) == 12
    assert {(frame.width, frame.height) for frame in frames} == {(128, 64)}
