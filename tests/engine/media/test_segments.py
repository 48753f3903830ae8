"""Segments of a video: where they are cut, and that joined they are the whole."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from tests.helpers import content, cut, make_clip, pictures_of, run_whole, transcode

from fusematte.engine.errors import InputError, TruncatedInputError
from fusematte.engine.frame import Frame
from fusematte.engine.jobs import single
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.segments import (
    JOINABLE,
    FinishedSegments,
    SegmentPlan,
    Span,
    join,
    plan,
)
from fusematte.engine.media.writer import Writer

VARIABLE = [0, 3, 4, 10, 11, 12, 25, 31, 40, 41, 42, 43, 60, 90, 91, 92, 93, 94, 95, 120, 121, 122]
KINDS = {
    ".mp4": ("libx264", ("aac",)),
    ".mov": ("libx264", ("aac",)),
    ".mkv": ("libx264", ("aac",)),
    ".webm": ("libvpx-vp9", ("libopus",)),
    ".ts": ("libx264", ("aac",)),
    ".avi": ("mpeg4", ("mp3",)),
    ".flv": ("libx264", ("aac",)),
}


def clip_of(folder: Path, suffix: str, **options: object) -> Path:
    codec, audio = KINDS[suffix]
    settings: dict[str, object] = {"frames": 48, "codec": codec, "audio": audio}
    settings |= {"options": {"g": "8", "keyint_min": "8"}, **options}
    return make_clip(folder / f"in{suffix}", **settings)  # type: ignore[arg-type]


def cut_up(path: Path, frames: int) -> SegmentPlan:
    with Reader(path) as reader:
        return plan(reader, frames)


def frames_of(reader: Reader, span: Span) -> list[Frame]:
    reader.seek(span.warm_from)
    ends = float("inf") if span.end is None else span.end
    return [frame for frame in reader if span.begin <= frame.pts < ends]


def encode_parts(source: Path, output: Path, spans: list[Span]) -> FinishedSegments:
    """Each span transcoded to a file of its own."""
    files = [output.with_name(f"{index}{output.suffix}") for index, _ in enumerate(spans)]
    for span, file in zip(spans, files, strict=True):
        with Reader(source) as reader, Writer(file, like=reader) as writer:
            for frame in frames_of(reader, span):
                writer.write(frame)
    return FinishedSegments({output: files})


def put_together(source: Path, output: Path, parts: FinishedSegments) -> int:
    with Reader(source) as reader, Writer(output, like=reader, audio=True) as writer:
        return join(reader, [writer], parts, audio=True)


@pytest.mark.parametrize("suffix", KINDS)
def test_spans_meet_at_key_frames_and_miss_nothing(tmp_path: Path, suffix: str) -> None:
    clip = clip_of(tmp_path, suffix)
    spans, _ = cut_up(clip, 10)
    with Reader(clip) as reader:
        every = [frame.pts for frame in reader]
    assert [a.end for a in spans[:-1]] == [b.begin for b in spans[1:]]
    assert [every.index(span.begin) for span in spans] == [0, 16, 32]
    assert spans[-1].end is None
    with Reader(clip) as reader:
        found = [[frame.pts for frame in frames_of(reader, span)] for span in spans[::-1]]
    assert list(chain(*found[::-1])) == every


def test_the_network_warms_up_before_a_span(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, ".mkv", frames=120)
    spans, _ = cut_up(clip, 40)
    with Reader(clip) as reader:
        every = [frame.pts for frame in reader]
    lead = [every.index(span.begin) - every.index(span.warm_from) for span in spans]
    assert lead == [0, 32, 32]
    assert {span.origin for span in spans} == {every[0]}


def test_a_video_without_key_frames_between_is_one_span(tmp_path: Path) -> None:
    spans, _ = cut_up(clip_of(tmp_path, ".mp4", options={"g": "1000"}), 10)
    assert len(spans) == 1
    assert spans[0].end is None


def test_digest_tells_videos_apart(tmp_path: Path) -> None:
    one = clip_of(tmp_path, ".mp4")
    digest = cut_up(one, 10).digest
    assert cut_up(one.rename(tmp_path / "same.mp4"), 20).digest == digest
    assert cut_up(clip_of(tmp_path, ".mp4", frames=47), 10).digest != digest


def test_no_picture(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, ".mp4")
    with Reader(clip) as reader:
        reader.video_packets = lambda: iter(())  # type: ignore[method-assign]
        with pytest.raises(InputError, match="no picture"):
            plan(reader)


@pytest.mark.parametrize("suffix", [suffix for suffix in KINDS if suffix in JOINABLE])
@pytest.mark.parametrize("start", [0, 50])
def test_joined_is_the_whole(tmp_path: Path, suffix: str, start: int) -> None:
    clip = clip_of(tmp_path, suffix, start=start)
    whole = tmp_path / f"whole{suffix}"
    transcode(clip, whole, audio=True)
    output = tmp_path / f"out{suffix}"
    parts = encode_parts(clip, output, cut_up(clip, 10).spans)
    assert put_together(clip, output, parts) == 48
    ours, direct = content(output), content(whole)
    assert ours.times == direct.times
    assert ours.durations == direct.durations
    assert ours.packets == direct.packets
    pictures, expected = pictures_of(output), pictures_of(whole)
    assert len(pictures) == 48
    for picture, other in zip(pictures, expected, strict=True):
        assert np.abs(picture.astype(int) - other).mean() < 3
    check_order(output)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_rate_survives_the_joints(tmp_path: Path, suffix: str) -> None:
    clip = make_clip(
        tmp_path / f"in{suffix}",
        times=VARIABLE,
        time_base=Fraction(1, 500),
        start=1200,
        options={"g": "5", "keyint_min": "5"},
    )
    output = tmp_path / f"out{suffix}"
    put_together(clip, output, encode_parts(clip, output, cut_up(clip, 4).spans))
    assert content(output).times == content(clip).times
    check_order(output)


def check_order(path: Path) -> None:
    """Decoding times, where the container stores them, increase; none is after its frame's."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.dts is not None]
    stamps = [(p.pts, p.dts) for p in packets if p.size]
    assert all(a < b for (_, a), (_, b) in pairwise(stamps))
    assert all(dts <= pts for pts, dts in stamps if pts is not None)


def test_parts_that_are_not_all_leave_a_part_file(tmp_path: Path) -> None:
    clip, output = clip_of(tmp_path, ".mp4"), tmp_path / "out.mp4"
    files = encode_parts(clip, output, cut_up(clip, 10).spans).files[output]
    with pytest.raises(KeyboardInterrupt):
        put_together(clip, output, FinishedSegments({output: files[:2]}, KeyboardInterrupt()))
    assert not output.exists()
    left = content(tmp_path / "out.mp4.part")
    assert left.times == content(clip).times[:32]
    assert max(time for _, _, time in left.packets) < left.times[-1] + Fraction(1, 25)


@pytest.mark.usefixtures("small_network")
def test_run_by_spans_equals_run(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, ".mp4", frames=24)
    output, alpha = tmp_path / "out.mp4", tmp_path / "alpha.mkv"
    scene = make_clip(tmp_path / "scene.mp4", frames=7, rate=10)
    whole = run_whole(clip, tmp_path / "whole.mp4", background=scene)
    spans, _ = cut_up(clip, 10)
    seen: list[int] = []
    parts: dict[Path, list[Path]] = {output: [], alpha: []}
    for index, span in enumerate(spans):
        names = tmp_path / f"c{index}.mp4", tmp_path / f"a{index}.mkv"
        run_whole(
            clip,
            names[0],
            alpha_output=names[1],
            background=scene,
            span=span,
            observe=lambda matte: seen.append(matte.pts),
        )
        for files, name in zip(parts.values(), names, strict=True):
            files.append(name)
    assert len(seen) == 16 + 24  # the second span's warm-up is all of the first
    options = JobOptions(alpha_output=alpha, background=scene)
    assert single.join(clip, output, options, FinishedSegments(parts)) == whole.frames == 24
    assert content(output).times == content(alpha).times == content(clip).times
    assert content(output).packets == content(tmp_path / "whole.mp4").packets
    # The second span's network has seen all that the whole job's had: the pictures are alike.
    for picture, other in zip(
        pictures_of(output), pictures_of(tmp_path / "whole.mp4"), strict=True
    ):
        assert np.abs(picture.astype(int) - other).mean() < 2


def test_damage_within_a_span_is_told(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, ".ts", frames=40)
    data = bytearray(clip.read_bytes())
    middle = len(data) // 6
    data[middle : middle + 1880] = bytes(1880)
    clip.write_bytes(data)
    spans, _ = cut_up(clip, 16)
    with pytest.raises(TruncatedInputError):
        run_whole(clip, tmp_path / "out.mp4", span=spans[0])
    assert (tmp_path / "out.mp4.part").exists()


def test_a_cut_file_ends_where_it_is_cut(tmp_path: Path) -> None:
    clip = cut(clip_of(tmp_path, ".mkv", frames=60, width=160, height=120), 0.5)
    spans, _ = cut_up(clip, 16)
    with pytest.raises(TruncatedInputError):
        run_whole(clip, tmp_path / "out.mp4", span=spans[-1])
