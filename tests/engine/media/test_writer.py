"""The Writer: names, codecs, formats, and how it fails."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import content, first_frame, make_clip, transcode

from fusematte.engine.errors import OutputError, UsageError
from fusematte.engine.frame import PIXEL_FORMATS, Frame
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.reserved_file import ROOM
from fusematte.engine.media.writer import Writer


@pytest.fixture
def clip(tmp_path: Path) -> Iterator[Reader]:
    with Reader(make_clip(tmp_path / "in.mp4", frames=6)) as reader:
        yield reader


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Files of this process may not grow over ``size`` bytes: as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_name_appears_only_when_complete(clip: Reader, tmp_path: Path) -> None:
    path, part = tmp_path / "out.mp4", tmp_path / "out.mp4.part"
    path.write_bytes(b"before")
    with Writer(path, clip) as writer:
        for frame in clip:
            writer.write(frame)
        assert part.exists()
        assert path.read_bytes() == b"before"
    assert not part.exists()
    assert len(content(path).times) == 6


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".flv"])
def test_abandoned_file_is_playable(clip: Reader, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with pytest.raises(KeyboardInterrupt), Writer(path, clip) as writer:
        for _, frame in zip(range(4), clip, strict=False):
            writer.write(frame)
        raise KeyboardInterrupt
    assert not path.exists()
    assert len(content(tmp_path / f"out{suffix}.part").times) == 4


def test_nothing_written_leaves_nothing(clip: Reader, tmp_path: Path) -> None:
    Writer(tmp_path / "a.mp4", clip).abandon()
    Writer(tmp_path / "b.mp4", clip).close()
    assert not list(tmp_path.glob("[ab].*"))


def test_closing_twice_is_harmless(clip: Reader, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "out.mp4", clip)
    writer.write(next(iter(clip)))
    writer.close()
    writer.close()
    writer.abandon()
    assert len(content(tmp_path / "out.mp4").times) == 1


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp4", "libx265"),
        (".mp4", "libvpx-vp9"),
        (".mp4", "libsvtav1"),
        (".mkv", "ffv1"),
        (".mov", "prores_ks"),
        (".webm", None),
        (".ts", "libx265"),
        (".avi", "mpeg4"),
    ],
)
def test_codecs(tmp_path: Path, suffix: str, codec: str | None) -> None:
    source = make_clip(tmp_path / "in.mkv", width=128, height=96, frames=4, codec="ffv1")
    transcode(source, tmp_path / f"out{suffix}", codec=codec)
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        name = container.streams.video[0].codec_context.codec.canonical_name
    assert name == av.Codec(codec or "libvpx-vp9", "w").canonical_name
    with Reader(source) as before, Reader(tmp_path / f"out{suffix}") as after:
        for frame, got in zip(before, after, strict=True):
            black, span, _, _ = got.levels
            luma = (frame.planes[0] - 16.0) / 219
            assert np.abs((got.planes[0] - black) / span - luma).mean() < 0.03


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no thread is real-time")
def test_an_encoder_does_not_take_the_processors(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", width=128, height=96, frames=2)
    with Reader(source) as reader, Writer(tmp_path / "out.mkv", reader, codec="libsvtav1") as to:
        threads = [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
        assert len(threads) > 10  # the encoder's are among them
        assert set(map(os.sched_getscheduler, threads)) == {os.SCHED_OTHER}
        for frame in reader:
            to.write(frame)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
@pytest.mark.parametrize("frames", [1, 2])
def test_shortest_clips(tmp_path: Path, codec: str, frames: int) -> None:
    source = make_clip(tmp_path / "in.mp4", width=128, height=96, frames=frames)
    for _ in range(5):  # libx265 makes mistakes here at random
        transcode(source, tmp_path / "out.mp4", codec=codec)
        assert content(tmp_path / "out.mp4").times == content(source).times


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_h264_keeps_every_layout(tmp_path: Path, name: str) -> None:
    source = make_clip(tmp_path / "in.mkv", frames=3, codec="ffv1", pixel_format=name)
    transcode(source, tmp_path / "out.mp4")
    with Reader(source) as before, Reader(tmp_path / "out.mp4") as after:
        assert after.format == before.format
        for frame, got in zip(before, after, strict=True):
            for plane, other in zip(frame.planes, got.planes, strict=True):
                error = np.abs(plane.astype(float) - other).mean()
                assert error < 3 * (1 << (frame.format.bits - 8))


@pytest.mark.parametrize(
    ("codec", "name", "expected"),
    [
        ("libsvtav1", "yuv444p", "yuv420p"),
        ("libsvtav1", "yuv422p10le", "yuv420p10le"),
        ("libvpx-vp9", "yuv422p10le", "yuv422p"),
        ("prores_ks", "yuv420p", "yuv422p10le"),
    ],
)
def test_layouts_a_codec_lacks_become_the_nearest(
    tmp_path: Path, codec: str, name: str, expected: str
) -> None:
    source = make_clip(
        tmp_path / "in.mkv", width=128, height=96, frames=2, codec="ffv1", pixel_format=name
    )
    transcode(source, tmp_path / "out.mkv", codec=codec)
    with Reader(tmp_path / "out.mkv") as reader:
        assert reader.format.name == expected


@pytest.mark.parametrize("size", [(161, 97), (160, 97), (161, 96), (16, 16), (1, 1)])
@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".webm", "libvpx-vp9"), (".mkv", "ffv1")]
)
def test_any_size(tmp_path: Path, size: tuple[int, int], suffix: str, codec: str) -> None:
    width, height = size
    source = make_clip(tmp_path / "in.mkv", width=width, height=height, frames=2, codec="ffv1")
    transcode(source, tmp_path / f"out{suffix}", codec=codec)
    with Reader(tmp_path / f"out{suffix}") as reader:
        assert (reader.width, reader.height) == size
        assert len(list(reader)) == 2


def test_size_the_encoder_refuses(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", width=1, height=1, frames=1, codec="ffv1")
    with Reader(source) as reader, pytest.raises(OutputError, match="cannot encode 1x1"):
        Writer(tmp_path / "out.mp4", reader, codec="libx265")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("suffix", "codec", "size"),
    [
        (".mp4", None, (160, 96)),
        (".mp4", None, (161, 97)),
        (".mp4", "libx265", (160, 96)),
        (".webm", None, (160, 96)),
        (".mkv", "ffv1", (161, 97)),
        (".mov", "prores_ks", (160, 96)),
    ],
)
def test_gray_spans_all_values(
    tmp_path: Path, suffix: str, codec: str | None, size: tuple[int, int]
) -> None:
    width, height = size
    source = make_clip(
        tmp_path / "in.mkv", width=width, height=height, frames=3, codec="ffv1", audio=True
    )
    ramp = np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))
    path = tmp_path / f"out{suffix}"
    with Reader(source) as reader, Writer(path, reader, codec=codec, content="gray") as writer:
        for frame in reader:
            writer.write_gray(ramp, frame)
    got = first_frame(path).to_ndarray(format="gray")
    assert np.abs(got.astype(int) - ramp).max() <= 5
    assert (got.min(), got.max()) <= (1, 255)
    assert got.max() >= 253
    assert len(content(path).times) == 3


def test_gray_takes_any_strides(clip: Reader, tmp_path: Path) -> None:
    plane = np.zeros((64, 128), np.uint8).T[::2, :48].T[:, ::-1]
    assert plane.shape == (48, 64)
    with Writer(tmp_path / "out.mp4", clip, content="gray") as writer:
        writer.write_gray(plane, next(iter(clip)))
    assert first_frame(tmp_path / "out.mp4").to_ndarray(format="gray").max() <= 1


def test_frame_of_another_size(clip: Reader, tmp_path: Path) -> None:
    frame = next(iter(clip))
    y, u, v = frame.planes
    half = frame.with_planes((y[::2, ::2], u[::2, ::2], v[::2, ::2]))
    with (
        pytest.raises(UsageError, match="32x24, but the video is 64x48"),
        Writer(tmp_path / "out.mp4", clip) as writer,
    ):
        writer.write(half)
    assert not list(tmp_path.glob("out*"))


def test_quality_and_preset_reach_the_encoder(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", width=320, height=240, frames=5, codec="ffv1")
    sizes = []
    for crf, preset in ((45, "ultrafast"), (18, None), (1, "slow")):
        path = tmp_path / f"{crf}.mp4"
        with Reader(source) as reader, Writer(path, reader, crf=crf, preset=preset) as writer:
            for frame in reader:
                writer.write(frame)
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes)
    assert sizes[0] * 2 < sizes[2]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.xyz", {}, r"unknown kind of video file; use one of \.mp4"),
        ("out", {}, "unknown kind of video file"),
        ("out.mp4", {"codec": "nonsense"}, "unknown video codec 'nonsense'; use one of libx264"),
        ("out.mp4", {"codec": "aac"}, "unknown video codec 'aac'"),
        ("out.webm", {"codec": "libx264"}, "webm cannot store libx264; choose one of libvpx-vp9"),
        ("out.ts", {"codec": "libvpx-vp9"}, "ts cannot store libvpx-vp9; choose one of libx264"),
        ("out.mkv", {"codec": "ffv1", "crf": 20}, "ffv1 has no crf"),
        ("out.webm", {"preset": "fast"}, "libvpx-vp9 has no preset"),
        ("out.mp4", {"preset": "warp"}, "no preset 'warp'; use one of ultrafast, superfast"),
        ("out.mkv", {"codec": "libsvtav1", "preset": "14"}, "'14'; use one of -2, .* 12, 13$"),
    ],
)
def test_what_cannot_be(
    clip: Reader, tmp_path: Path, name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Writer(tmp_path / name, clip, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("suffix", "audio", "names"),
    [
        (".webm", ["aac"], "aac"),
        (".mp4", ["pcm_s16le"], "pcm_s16le"),
        (".mov", ["flac"], "flac"),
        (".flv", ["aac", "pcm_s16le"], "aac and pcm_s16le"),
        (".ts", ["flac"], "flac"),
    ],
)
def test_audio_the_container_cannot_store(
    tmp_path: Path, suffix: str, audio: list[str], names: str
) -> None:
    path = tmp_path / f"out{suffix}"
    with Reader(make_clip(tmp_path / "in.mkv", audio=audio)) as reader:
        with pytest.raises(UsageError, match=rf"\{suffix} cannot store {names} audio; write \.mkv"):
            Writer(path, reader, audio="copy")
        Writer(path, reader).abandon()
    assert not list(tmp_path.glob("out*"))


def test_encoders_are_quiet(
    clip: Reader, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for codec in ("libx264", "libx265", "libsvtav1", "libvpx-vp9"):
        with Writer(tmp_path / "out.mp4", clip, codec=codec) as writer:
            for _, frame in zip(range(1), clip, strict=False):
                writer.write(frame)
    assert capfd.readouterr() == ("", "")


def test_rotation_the_container_cannot_store(tmp_path: Path) -> None:
    with (
        Reader(make_clip(tmp_path / "in.mp4", rotation=90)) as reader,
        pytest.raises(UsageError, match="cannot store the rotation"),
    ):
        Writer(tmp_path / "out.ts", reader)


def test_pixel_aspect_the_container_cannot_store(tmp_path: Path) -> None:
    with (
        Reader(make_clip(tmp_path / "in.mp4", aspect=Fraction(3, 2))) as reader,
        pytest.raises(UsageError, match="cannot store the pixel aspect 3/2"),
    ):
        Writer(tmp_path / "out.webm", reader)


def test_path_is_a_directory(clip: Reader, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        Writer(tmp_path / "out.mp4", clip)


def test_directory_is_missing(clip: Reader, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder does not exist"):
        Writer(tmp_path / "no" / "out.mp4", clip)


def test_directory_is_not_writable(clip: Reader) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        Writer("/proc/out.mp4", clip)  # not even root may


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_disk_full(tmp_path: Path, suffix: str) -> None:
    source = make_clip(tmp_path / "in.mkv", width=320, height=240, frames=30, codec="ffv1")
    path = tmp_path / f"out{suffix}"
    with (
        limited_file_size(40_000),
        pytest.raises(OutputError, match="cannot be written") as caught,
        Reader(source) as reader,
        Writer(path, reader, crf=0) as writer,
    ):
        for frame in reader:
            writer.write(frame)
    assert not path.exists()
    assert isinstance(caught.value.__cause__, OSError | av.FFmpegError)
    assert caught.value.__cause__.errno == errno.EFBIG


COPY = "import sys; from tests.helpers import transcode; transcode(*sys.argv[1:], audio=True)"
ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" none "$2" && "$3" -c "$4" "$5" "$6"; code=$?; cp "$2"/* "$7"; exit $code
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_leaves_what_plays(tmp_path: Path, suffix: str) -> None:
    """On a real one, of memory: one needs its index at the end, the other holds much back."""
    alone = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user may mount a disk here")
    source = make_clip(
        tmp_path / "in.mkv", width=320, height=240, frames=160, audio=True, show=noise
    )
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    size = str(ROOM + 1_000_000)
    command = ["sh", "-c", ON_A_SMALL_DISK, "sh", size, disk, sys.executable, COPY, source]
    done = subprocess.run(
        [*alone, *map(str, command), f"{disk}/out{suffix}", str(kept)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert "cannot be written: No space left on device" in done.stderr.splitlines()[-1]
    assert [path.name for path in kept.iterdir()] == [f"out{suffix}.part"]
    found = content(kept / f"out{suffix}.part")
    assert 5 < len(found.times) < 160
    assert found.times == content(source).times[: len(found.times)]
    assert found.packets


def noise(width: int, height: int, index: int) -> NDArray[np.uint8]:
    """Nothing that can be compressed."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def test_audio_may_come_from_another_thread(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=50, audio=True)
    with Reader(source) as reader:
        items = list(reader.items())
        frames = [item for item in items if isinstance(item, Frame)]
        packets = [item for item in items if not isinstance(item, Frame)]
        with Writer(tmp_path / "out.mp4", reader, audio=True) as writer:
            thread = threading.Thread(target=lambda: [writer.mux(packet) for packet in packets])
            thread.start()
            for frame in frames:
                writer.write(frame)
            thread.join()
    before, after = content(source), content(tmp_path / "out.mp4")
    assert after.packets == before.packets
    assert after.times == before.times


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_audio_stream_without_packets(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with (
        Reader(make_clip(tmp_path / "in.mp4", audio=True)) as reader,
        Writer(path, reader, audio=True) as writer,
    ):
        for frame in reader:
            writer.write(frame)
    assert len(content(path).times) == 12


def test_times_in_other_units(clip: Reader, tmp_path: Path) -> None:
    frame = next(iter(clip))
    path = tmp_path / "out.mp4"
    with Writer(path, clip) as writer:
        for number in range(4):
            writer.write(
                Frame(
                    planes=frame.planes,
                    format=frame.format,
                    pts=number * 80,
                    time_base=Fraction(1, 1000),
                    duration=80,
                )
            )
    assert content(path).times == [Fraction(number * 80, 1000) for number in range(4)]
    assert content(path).durations[-1] == Fraction(80, 1000)
