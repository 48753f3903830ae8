"""Reader into Writer: what goes in must come out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from tests.helpers import ROUNDING, Content, content, first_frame, make_clip, transcode

from fusematte.engine.frame import Frame
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.writer import Writer

MILLISECOND = Fraction(1, 1000)


def copy(source: Path, target: Path, codec: str | None = None) -> tuple[Content, Content]:
    transcode(source, target, codec=codec, audio=True)
    return content(source), content(target)


def assert_close(got: list[Fraction], expected: list[Fraction], tolerance: Fraction) -> None:
    assert len(got) == len(expected)
    assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= tolerance


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("start", [0, 7, 100_003])
@pytest.mark.parametrize(
    ("rate", "unit"),
    [
        (Fraction(25), Fraction(1, 12800)),
        (Fraction(30000, 1001), Fraction(1001, 30000)),
        (Fraction(24), Fraction(1, 90000)),
    ],
)
def test_mp4_keeps_every_time(
    tmp_path: Path, suffix: str, codec: str, start: int, rate: Fraction, unit: Fraction
) -> None:
    step = round(1 / rate / unit)
    source = make_clip(
        tmp_path / "in.mp4",
        times=range(0, 10 * step, step),
        time_base=unit,
        rate=rate,
        start=start,
        audio=True,
        muxer={"movie_timescale": str(unit.denominator)},
    )
    before, after = copy(source, tmp_path / f"out{suffix}", codec)
    assert after == before
    with Reader(source) as one, Reader(tmp_path / f"out{suffix}") as other:
        assert other.time_base == one.time_base
        assert other.duration == one.duration
        assert other.frame_rate == one.frame_rate


@pytest.mark.parametrize("source_suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("suffix", ROUNDING)
@pytest.mark.parametrize("start", [0, 12_345])
def test_variable_rate(tmp_path: Path, source_suffix: str, suffix: str, start: int) -> None:
    source = make_clip(
        tmp_path / f"in{source_suffix}",
        times=[0, 512, 700, 5000, 5100, 9000, 9100, 30_000, 31_000],
        time_base=Fraction(1, 12800),
        start=start,
    )
    before, after = copy(source, tmp_path / f"out{suffix}")
    assert_close(after.times, before.times, ROUNDING[suffix])


def test_last_frame_keeps_its_duration(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=3, options={"bf": "0"})
    path = tmp_path / "out.mp4"
    with Reader(source) as reader, Writer(path, reader) as writer:
        for frame in reader:
            last = frame.pts == 1024
            writer.write(
                Frame(
                    planes=frame.planes,
                    format=frame.format,
                    pts=frame.pts,
                    time_base=frame.time_base,
                    duration=51_200 if last else frame.duration,
                )
            )
    with Reader(path) as reader:
        assert reader.duration == Fraction(1024 + 51_200, 12_800)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_rotation(tmp_path: Path, suffix: str, rotation: int) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=2, rotation=rotation)
    copy(source, tmp_path / f"out{suffix}")
    assert first_frame(tmp_path / f"out{suffix}").rotation % 360 == -rotation % 360
    with Reader(tmp_path / f"out{suffix}") as reader:
        assert reader.rotation == rotation


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp4", "libx264"),
        (".mp4", "libvpx-vp9"),
        (".mov", "prores_ks"),
        (".mkv", "libx265"),
        (".ts", "libx264"),
        (".avi", "mpeg4"),
    ],
)
def test_pixel_aspect(tmp_path: Path, suffix: str, codec: str) -> None:
    source = make_clip(tmp_path / "in.mp4", aspect=Fraction(3, 2))
    copy(source, tmp_path / f"out{suffix}", codec)
    with Reader(tmp_path / f"out{suffix}") as reader:
        assert reader.aspect == Fraction(3, 2)


@pytest.mark.parametrize("color", [(1, 1, 1, 1), (6, 6, 6, 1), (9, 9, 16, 1), (5, 5, 6, 2)])
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp4", "libx264"),
        (".mp4", "libx265"),
        (".mkv", "ffv1"),
        (".webm", "libvpx-vp9"),
        (".ts", "libx264"),
    ],
)
def test_color_tags(
    tmp_path: Path, suffix: str, codec: str, color: tuple[int, int, int, int]
) -> None:
    source = make_clip(tmp_path / "in.mp4", color=color)
    copy(source, tmp_path / f"out{suffix}", codec)
    with Reader(source) as before, Reader(tmp_path / f"out{suffix}") as after:
        assert before.color[:3] == color[:3]
        assert after.color == before.color


def test_untagged_stays_untagged(tmp_path: Path) -> None:
    copy(make_clip(tmp_path / "in.mp4", frames=2), tmp_path / "out.mp4")
    frame = first_frame(tmp_path / "out.mp4")
    assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (2, 2, 2)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_metadata(tmp_path: Path, suffix: str) -> None:
    source = make_clip(
        tmp_path / "in.mkv", frames=1, metadata={"title": "Ein Titel", "artist": "é"}
    )
    copy(source, tmp_path / f"out{suffix}")
    with Reader(tmp_path / f"out{suffix}") as reader:
        tags = {key.lower(): value for key, value in reader.metadata.items()}
    assert (tags["title"], tags["artist"]) == ("Ein Titel", "é")


@pytest.mark.parametrize(
    ("source_suffix", "audio", "suffix", "tolerance"),
    [
        (".mp4", ["aac"], ".mp4", Fraction(0)),
        (".mp4", ["aac", "libmp3lame"], ".mov", Fraction(0)),
        (".mkv", ["aac", "flac"], ".mkv", Fraction(0)),
        (".mkv", ["flac", "aac", "libopus"], ".mp4", MILLISECOND),
        (".mp4", ["aac", "aac"], ".mkv", MILLISECOND / 2),
        (".avi", ["pcm_s16le"], ".mov", Fraction(0)),
        (".webm", ["libopus"], ".webm", MILLISECOND),
    ],
)
def test_audio_packets_are_identical(
    tmp_path: Path, source_suffix: str, audio: list[str], suffix: str, tolerance: Fraction
) -> None:
    source = make_clip(
        tmp_path / f"in{source_suffix}",
        frames=20,
        audio=audio,
        codec="libvpx-vp9" if source_suffix == ".webm" else "libx264",
        options={"bf": "0"} if source_suffix == ".avi" else None,
    )
    before, after = copy(source, tmp_path / f"out{suffix}")
    assert sorted(p[:2] for p in after.packets) == sorted(p[:2] for p in before.packets)
    for stream in range(1, 1 + len(audio)):
        assert_close(
            [time for index, _, time in after.packets if index == stream],
            [time for index, _, time in before.packets if index == stream],
            tolerance,
        )


def test_audio_tags(tmp_path: Path) -> None:
    plain = make_clip(tmp_path / "a.mp4", audio=True)
    source = tmp_path / "in.mkv"
    with av.open(str(plain)) as container, av.open(str(source), "w") as written:
        streams = [written.add_stream_from_template(s) for s in container.streams]
        streams[1].metadata["language"] = "deu"
        for packet in container.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                written.mux(packet)
    copy(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].language == "deu"


@pytest.mark.parametrize("suffix", [".ts", ".flv"])
def test_sound_before_zero_moves_with_the_pictures(tmp_path: Path, suffix: str) -> None:
    before, after = copy(make_clip(tmp_path / "in.mp4", audio=True), tmp_path / f"out{suffix}")
    assert len(after.packets) == len(before.packets)
    shift = after.times[0] - before.times[0]
    assert 0 < shift < Fraction(1, 40)
    assert abs(after.packets[0][2] - before.packets[0][2] - shift) <= MILLISECOND


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi(tmp_path: Path, codec: str) -> None:
    source = make_clip(tmp_path / "in.mp4", rate=Fraction(30000, 1001), audio=True)
    before, after = copy(source, tmp_path / "out.avi", codec)
    with Reader(tmp_path / "out.avi") as reader:  # plain PyAV would make up times for H.264 in AVI
        assert [frame.time for frame in reader] == before.times
    assert [p[1] for p in after.packets] == [p[1] for p in before.packets]


@pytest.mark.parametrize("name", ["m1.mp4", "d12.mp4"])
def test_real_clips(shared_clips: Path, tmp_path: Path, name: str) -> None:
    before, after = copy(shared_clips / name, tmp_path / "out.mp4")
    assert after == before
    with Reader(shared_clips / name) as one, Reader(tmp_path / "out.mp4") as other:
        assert other.duration == one.duration
        assert other.color == one.color
        assert other.frame_count == one.frame_count
