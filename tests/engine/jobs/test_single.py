"""The whole job on real files: nothing lost on the way, and what is shown is what was asked for."""

from __future__ import annotations

import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.helpers import content, cut, first_frame, make_clip, run_whole

import fusematte as fm
from fusematte.engine.backends.openvino_backend import OpenVinoBackend
from fusematte.engine.errors import (
    BackendError,
    BackgroundError,
    InputError,
    ModelError,
    OutputError,
    TruncatedInputError,
    UsageError,
)
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.single import open_tools
from fusematte.engine.pipeline import network_threads

pytestmark = pytest.mark.usefixtures("small_network")

CLIPS = (
    "m1.mp4",
    pytest.param("d20.mp4", marks=pytest.mark.slow),
    pytest.param("s13.mp4", marks=pytest.mark.slow),
)
"""Short ones: 720p with audio, square with audio, upright."""


@pytest.mark.parametrize("name", CLIPS)
def test_a_real_clip_keeps_frames_times_and_audio(
    name: str, shared_clips: Path, tmp_path: Path
) -> None:
    output, alpha = tmp_path / "out.mp4", tmp_path / "alpha.mp4"
    report = run_whole(shared_clips / name, output, background="blur", alpha_output=alpha)
    before, after = content(shared_clips / name), content(output)
    assert after.times == before.times
    assert content(alpha).times == before.times
    assert [p[1:] for p in after.packets] == [p[1:] for p in before.packets]
    assert report.frames == len(before.times)
    assert not list(tmp_path.glob("*.part"))


def test_variable_frame_rate_and_start_offset_survive(tmp_path: Path) -> None:
    times = [0, 3, 4, 10, 11, 12, 25, 31]
    clip = make_clip(
        tmp_path / "in.mp4",
        frames=len(times),
        times=times,
        time_base=Fraction(1, 600),
        start=1200,
    )
    run_whole(clip, tmp_path / "out.mp4")
    assert content(tmp_path / "out.mp4").times == content(clip).times


@pytest.mark.parametrize("size", [(63, 47), (16, 16), (2, 2), (33, 64), (129, 17)])
def test_odd_and_tiny_sizes_keep_their_size(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    clip = make_clip(
        tmp_path / "in.mkv", width=width, height=height, codec="ffv1", pixel_format="yuv444p"
    )
    run_whole(clip, tmp_path / "out.mp4")
    frame = first_frame(tmp_path / "out.mp4")
    assert (frame.width, frame.height) == size


def test_ten_bits_stay_ten_bits(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", codec="ffv1", pixel_format="yuv420p10le")
    alpha = tmp_path / "alpha.mp4"
    run_whole(clip, tmp_path / "out.mp4", background="#ffffff", alpha_output=alpha)
    frame = first_frame(tmp_path / "out.mp4")
    assert frame.format.name == "yuv420p10le"
    # Nobody is in the picture: white, luma 235 * 4 in 10 bits.
    assert np.median(frame.to_ndarray()[:48]) == pytest.approx(940, abs=8)
    assert np.median(first_frame(alpha).to_ndarray(format="gray")) < 16


def test_one_pixel_video_works_or_says_why(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", width=1, height=1, codec="ffv1", pixel_format="yuv444p")
    try:
        run_whole(clip, tmp_path / "out.mp4")
    except (OutputError, UsageError) as error:
        assert "\n" not in str(error)
        assert not (tmp_path / "out.mp4").exists()
    else:
        assert first_frame(tmp_path / "out.mp4").width == 1


def test_nobody_in_the_picture_leaves_the_background(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", width=128, height=96, frames=6)
    run_whole(clip, tmp_path / "out.mp4", background="#ff0000")
    rgb = first_frame(tmp_path / "out.mp4").to_ndarray(format="rgb24").astype(int)
    red = (rgb[..., 0] > 200) & (rgb[..., 1] < 60) & (rgb[..., 2] < 60)
    assert red.mean() > 0.8


def test_a_cut_file_is_processed_as_far_as_it_goes(tmp_path: Path) -> None:
    clip = cut(make_clip(tmp_path / "in.ts", frames=80, audio=True), 0.6)
    whole = content(clip).times
    with pytest.raises(TruncatedInputError):
        run_whole(make_truncated(tmp_path), tmp_path / "out.mp4")
    assert whole
    assert not (tmp_path / "out.mp4").exists()
    assert len(content(tmp_path / "out.mp4.part").times) > 10


def make_truncated(folder: Path) -> Path:
    """A Matroska file, whose header tells its duration, broken off in the middle."""
    return cut(make_clip(folder / "whole.mkv", width=160, height=120, frames=100), 0.5)


def test_an_existing_output_survives_a_failed_job(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"precious")
    with pytest.raises(TruncatedInputError):
        run_whole(make_truncated(tmp_path), output)
    assert output.read_bytes() == b"precious"


def test_refuses_to_write_over_what_it_reads(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    picture = tmp_path / "beach.mp4"
    make_clip(picture)
    (tmp_path / "link.mp4").symlink_to(clip)
    data = clip.read_bytes()
    for output in (clip, tmp_path / "." / "in.mp4", tmp_path / "link.mp4"):
        with pytest.raises(UsageError, match="over"):
            run_whole(clip, output)
    with pytest.raises(UsageError, match="over"):
        run_whole(clip, picture, background=picture)
    with pytest.raises(UsageError, match="is the name of two outputs"):
        run_whole(clip, tmp_path / "o.mp4", alpha_output=tmp_path / "o.mp4")
    assert clip.read_bytes() == data


def test_each_kind_of_mistake_has_its_error(tmp_path: Path) -> None:
    clip, output = make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    with pytest.raises(InputError):
        run_whole(tmp_path / "missing.mp4", output)
    with pytest.raises(BackgroundError, match="pinkish"):
        run_whole(clip, output, background="pinkish")
    with pytest.raises(ModelError, match="huge"):
        run_whole(clip, output, model="huge")
    with pytest.raises(BackendError, match="abacus"):
        run_whole(clip, output, backend="abacus")
    with pytest.raises(UsageError, match="threads"):
        run_whole(clip, output, threads=0)
    assert not list(tmp_path.glob("out*"))


def test_no_thread_outlives_a_job(tmp_path: Path) -> None:
    with pytest.raises(TruncatedInputError):
        run_whole(make_truncated(tmp_path), tmp_path / "out.mp4")
    assert not [t for t in threading.enumerate() if t.name.startswith("fusematte")]


@pytest.mark.parametrize(("processors", "threads"), [(1, 1), (2, 2), (3, 2), (8, 4)])
def test_the_network_leaves_half_of_the_processors_to_others(
    processors: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(processors)), raising=False)
    assert network_threads(live=False) == threads
    assert network_threads(live=True) == max(1, processors // 2)
    with open_tools(JobOptions(backend="openvino")) as tools:
        backend = tools.matter.backend
        assert isinstance(backend, OpenVinoBackend)
        assert backend._options["INFERENCE_NUM_THREADS"] == threads
    with pytest.raises(UsageError, match="threads"), open_tools(JobOptions(threads=0)):
        pass


def test_the_api_of_the_readme(tmp_path: Path) -> None:
    clip, beach = make_clip(tmp_path / "talk.mp4"), tmp_path / "beach.mp4"
    make_clip(beach, frames=4)
    with (
        fm.open(clip) as src,
        fm.Matter() as matter,
        fm.Writer(tmp_path / "out.mp4", like=src) as out,
    ):
        for frame in src:
            matte = matter(frame)
            assert 0 <= matte.confidence <= 1
            assert matte.pts == frame.pts
            alpha = fm.refine(frame, matte)
            assert (alpha.shape, alpha.dtype) == ((frame.height, frame.width), np.uint8)
            out.write(fm.composite(frame, matte, str(beach)))
    assert content(tmp_path / "out.mp4").times == content(clip).times


def test_public_names_are_sorted_and_resolve() -> None:
    assert fm.__all__ == sorted(fm.__all__)
    for name in fm.__all__:
        assert getattr(fm, name) is not None
    assert set(fm.__all__) <= set(dir(fm))


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    process = psutil.Process()
    run_whole(
        make_clip(tmp_path / "warm.mp4", width=320, height=180, frames=40), tmp_path / "w.mp4"
    )
    before = process.memory_info().rss
    long = make_clip(tmp_path / "long.mp4", width=320, height=180, frames=400)
    run_whole(long, tmp_path / "long-out.mp4")
    # 400 frames of 86 kB would be 35 MB, their composites as much again.
    assert process.memory_info().rss - before < 40e6
