"""Long jobs: in segments they are what they are in one piece, whatever breaks them off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.jobs.kills import SEGMENT, check, lossless, people, start
from tests.helpers import clip_of_two_sizes, content, cut, make_clip, run_whole

from fusematte.cli import main
from fusematte.engine.errors import OutputError, TruncatedInputError, UsageError
from fusematte.engine.jobs import segmented
from fusematte.engine.jobs.run import run
from fusematte.engine.jobs.segmented import segments_of
from fusematte.engine.media import segments
from fusematte.engine.media.reader import Reader
from fusematte.engine.pipeline import Statistics

FRAMES = 30


@pytest.fixture(autouse=True)
def small_frames(request: pytest.FixtureRequest) -> None:
    """For all but the slow tests, whose processes see whole ones."""
    if "slow" not in request.keywords:
        request.getfixturevalue("small_network")


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "FRAMES", SEGMENT)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    options = {"g": "5", "keyint_min": "5"}
    return make_clip(tmp_path / "in.mp4", frames=FRAMES, audio=True, options=options)


def interrupt_after(frames: int) -> segmented.Progress:
    def progress(done: int, reader: Reader, statistics: Statistics) -> None:  # noqa: ARG001
        if done == frames:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def filmed(tmp_path: Path) -> Path:
    """A person; the shot ends with the first segment."""
    pytest.importorskip("skimage")
    return people(tmp_path / "people.mp4", FRAMES)


def test_in_segments_as_in_one_piece(clip: Path, tmp_path: Path) -> None:
    output, alpha = tmp_path / "out.mp4", tmp_path / "alpha.mp4"
    seen: list[int] = []
    report = run(
        clip,
        output,
        alpha_output=alpha,
        background="blur",
        progress=lambda frames, reader, statistics: seen.append(frames),  # noqa: ARG005
    )
    run_whole(clip, tmp_path / "whole.mp4", background="blur")
    assert report.frames == FRAMES
    assert seen == list(range(1, FRAMES + 1))
    assert {"decode", "network", "composite"} <= set(report.busy)
    whole = content(tmp_path / "whole.mp4")
    assert content(output) == whole
    assert content(alpha).times == whole.times
    left = {"in.mp4", "out.mp4", "alpha.mp4", "whole.mp4"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_the_network_follows_over_the_joints(filmed: Path, tmp_path: Path) -> None:
    """Also where one falls on a cut, which it must notice.

    A segment ends with a key frame, so only without them is the job in one piece the same.
    """
    options: dict[str, Any] = {"background": "transparent", "network_every": 1}
    run(filmed, tmp_path / "out.mkv", **options)
    run_whole(filmed, tmp_path / "whole.mkv", **options)
    found, whole = lossless(tmp_path / "out.mkv"), lossless(tmp_path / "whole.mkv")
    assert np.mean([picture[..., 3] for picture in whole]) > 20  # somebody is seen
    np.testing.assert_array_equal(found, whole)


def test_a_mask_in_segments_and_resumed(filmed: Path, tmp_path: Path) -> None:
    output = tmp_path / "mask.mkv"
    options: dict[str, Any] = {"background": "mask", "codec": "ffv1", "network_every": 1}
    with pytest.raises(KeyboardInterrupt):
        run(filmed, output, progress=interrupt_after(SEGMENT + 4), **options)
    run(filmed, output, resume=True, **options)
    run_whole(filmed, tmp_path / "cut.mkv", background="transparent", network_every=1)
    masks = [picture[..., 0] for picture in lossless(output)]
    assert np.mean(masks) > 20  # somebody is seen
    np.testing.assert_array_equal(masks, [one[..., 3] for one in lossless(tmp_path / "cut.mkv")])


def lines(output: Path) -> int:
    journal = segments_of(output) / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@pytest.mark.slow
def test_killed_again_and_again(filmed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    run(filmed, tmp_path / "unbroken.mkv", background="transparent")
    made = set()
    for count in (1, 2):
        resume = ["--resume"] * (count > 1)
        process = start("run", "-q", filmed, output, "-b", "transparent", *resume)
        deadline = time.monotonic() + 120
        while lines(output) < 1 + count:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists()
        made.add((segments_of(output) / "000000-output.mkv").stat().st_mtime_ns)
    assert len(made) == 1  # it was not done again
    seen: list[int] = []
    run(
        filmed,
        output,
        background="transparent",
        resume=True,
        progress=lambda frames, reader, statistics: seen.append(frames),  # noqa: ARG005
    )
    assert seen and seen[0] > 2 * SEGMENT
    assert content(output) == content(tmp_path / "unbroken.mkv")
    np.testing.assert_array_equal(lossless(output), lossless(tmp_path / "unbroken.mkv"))
    assert not segments_of(output).exists()


@pytest.mark.slow
def test_killed_at_random(tmp_path: Path) -> None:
    """A few kills; the module runs many."""
    pytest.importorskip("skimage")
    assert check(tmp_path, kills=4, seed=16, told=print) >= 1


def test_an_interrupt_leaves_what_plays_and_what_resumes(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        run(clip, output, progress=interrupt_after(SEGMENT + 4))
    part = content(tmp_path / "out.mp4.part")
    assert SEGMENT + 4 <= len(part.times) < FRAMES
    assert part.times == content(clip).times[: len(part.times)]
    assert not output.exists()
    run(clip, output, resume=True)
    assert content(output).times == content(clip).times
    assert not (tmp_path / "out.mp4.part").exists()


def test_an_interrupt_at_once_leaves_nothing(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(clip, tmp_path / "out.mp4", progress=interrupt_after(1))
    left = {path.name for path in tmp_path.iterdir()} - {"in.mp4"}
    assert left <= {"out.mp4.part", "out.mp4.segments"}
    if "out.mp4.part" in left:
        assert content(tmp_path / "out.mp4.part").times


@pytest.mark.slow
def test_no_room_for_the_whole_keeps_the_segments(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", width=320, height=240, frames=FRAMES, options={"g": "5"})
    code = (
        "import resource, signal, sys; from fusematte.engine.media import segments; "
        "from fusematte.cli import main; import fusematte.engine.commands.run; "
        f"segments.FRAMES = {SEGMENT}; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1)); "
        "sys.exit(main(sys.argv[2:]))"
    )
    output = tmp_path / "out.mp4"
    run(clip, tmp_path / "whole.mp4", background="blur")
    limit = (tmp_path / "whole.mp4").stat().st_size * 3 // 4
    command = [sys.executable, "-c", code, str(limit), "run", "-q", "-b", "blur"]
    failed = subprocess.run([*command, str(clip), str(output)], capture_output=True, text=True)
    assert failed.returncode == 5, failed.stderr
    said = failed.stderr.splitlines()[-2:]
    assert "out.mp4.segments" in said[0] and "--resume" in said[0]
    assert "cannot be written" in said[-1]
    assert not output.exists() and not (tmp_path / "out.mp4.part").exists()
    run(clip, output, background="blur", resume=True)
    assert content(output).times == content(clip).times


def test_a_job_of_which_only_the_join_is_left_opens_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OutputError("the disk is full")

    clip = make_clip(tmp_path / "in.mp4", frames=FRAMES, options={"g": "5"})
    output = tmp_path / "out.mp4"
    with monkeypatch.context() as patched:
        patched.setattr(segmented, "join", full)
        with pytest.raises(OutputError, match="full"):
            run(clip, output)
    monkeypatch.setattr("fusematte.engine.jobs.single.Matter", None)
    assert run(clip, output, resume=True).frames == FRAMES
    assert content(output).times == content(clip).times


def test_a_cut_input_leaves_all_of_it(tmp_path: Path) -> None:
    options = {"g": "5", "keyint_min": "5"}
    whole = make_clip(tmp_path / "whole.mkv", frames=60, width=160, height=120, options=options)
    clip, output = cut(whole, 0.6), tmp_path / "out.mp4"
    with pytest.raises(TruncatedInputError, match=r"cut\.mkv: .*frames could be read"):
        run(clip, output)
    assert len(content(tmp_path / "out.mp4.part").times) >= 2 * SEGMENT
    assert not output.exists() and not segments_of(output).exists()


def broken_job(clip: Path, output: Path, **options: object) -> None:
    """Leaves a job behind that is done in part."""
    with pytest.raises(KeyboardInterrupt):
        run(clip, output, progress=interrupt_after(SEGMENT + 6), **options)
    assert segments_of(output).exists()


def test_resume_refuses_another_job(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    broken_job(clip, output)
    command = ["run", "-q", "--resume", str(clip), str(output)]

    def refused(*options: str) -> str:
        assert main([*command, *options]) == 2
        said = capfd.readouterr().err.splitlines()
        assert len(said) == 1
        return said[0]

    capfd.readouterr()
    assert "background" in refused("-b", "blur") and "start over" in refused("-b", "blur")
    assert "crf" in refused("--crf", "30")
    make_clip(clip, frames=FRAMES - 1, options={"g": "5"})
    assert "in.mp4: is not the video" in refused()
    assert segments_of(output).exists()  # the work is still there


def test_resume_where_nothing_is_to_resume(clip: Path, tmp_path: Path) -> None:
    run(clip, tmp_path / "out.mp4", resume=True)
    assert content(tmp_path / "out.mp4").times == content(clip).times


def test_resume_where_it_cannot_be(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-q", "--resume", str(clip), str(tmp_path / "out.avi")]) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert "out.avi cannot be joined from segments; leave it out" in said


def test_a_new_start_discards_the_old_one(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    broken_job(clip, output)
    run(clip, output, background="blur")
    assert content(output).times == content(clip).times
    assert not segments_of(output).exists()


def test_what_the_join_would_refuse_is_refused_at_once(tmp_path: Path) -> None:
    options = {"g": "5", "keyint_min": "5"}
    clip = make_clip(tmp_path / "in.mp4", frames=FRAMES, audio=True, options=options)
    with pytest.raises(UsageError, match="aac"):
        run(clip, tmp_path / "out.webm", audio="copy")
    with pytest.raises(OutputError, match="nodir"):
        run(clip, tmp_path / "nodir" / "out.mp4")
    with pytest.raises(UsageError, match="over"):
        run(clip, clip)
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4"}


def test_a_torn_journal_is_read_up_to_its_last_whole_line(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    broken_job(clip, output)
    journal = segments_of(output) / "journal.jsonl"
    with journal.open("a") as file:
        file.write('{"segment": 1, "fra')
    run(clip, output, resume=True)
    assert content(output).times == content(clip).times


def test_short_videos_are_not_cut(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=SEGMENT)
    folders: list[bool] = []
    run(
        clip,
        tmp_path / "out.mp4",
        progress=lambda *_: folders.append(segments_of(tmp_path / "out.mp4").exists()),
    )
    assert folders and not any(folders)


def test_unwritable_folder(clip: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):  # root may write anywhere but here
        locked = Path("/proc")
    with pytest.raises(OutputError, match=r"out\.mp4"):
        run(clip, locked / "out.mp4")


def test_warnings_of_a_video_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However many segments, a check before, a join and a page after it open it again."""
    clip = make_clip(
        tmp_path / "in.mkv", frames=FRAMES, pixel_format="yuv420p10le",
        options={"g": "5", "keyint_min": "5", "flags": "+ildct", "x264-params": "tff=1"},
    )  # fmt: skip
    run(clip, tmp_path / "out.webm", report=tmp_path / "report")
    news = [text for text in caplog.messages if "in.mkv" in text or "out.webm" in text]
    assert len(news) == 2
    assert "interlaced" in " ".join(news) and "no more than 8 bits" in " ".join(news)


def test_warnings_amid_segments_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The size changes in the second segment of three: told then, and again by a resumed job."""
    clip = clip_of_two_sizes(tmp_path / "in.ts", FRAMES)
    output = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        run(clip, output, progress=interrupt_after(FRAMES - 2))
    told = [text for text in caplog.messages if "the size changes" in text]
    assert len(told) == 1
    caplog.clear()
    assert run(clip, output, resume=True).frames == FRAMES
    assert [text for text in caplog.messages if "the size changes" in text] == told
    assert len(content(output).times) == FRAMES


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_power_cut_that_kept_only_a_name(clip: Path, tmp_path: Path, share: float) -> None:
    """A segment that is in the journal, and is not whole, is done again."""
    output = tmp_path / "out.mp4"
    broken_job(clip, output)
    (first,) = segments_of(output).glob("000000-output.mp4")
    os.truncate(first, int(first.stat().st_size * share))
    run(clip, output, resume=True)
    assert content(output).times == content(clip).times
    assert not segments_of(output).exists()


def test_a_memory_that_a_power_cut_has_emptied(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    broken_job(clip, output)
    for file in segments_of(output).glob("*.npz"):
        os.truncate(file, 0)
    run(clip, output, resume=True)
    assert content(output).times == content(clip).times


@pytest.mark.parametrize(
    "line", ["garbage", "[]", '{"segment": "x"}', "[" * 9000, "\x00\xff", "{}"]
)
def test_garbage_in_the_journal(clip: Path, tmp_path: Path, line: str) -> None:
    output = tmp_path / "out.mp4"
    broken_job(clip, output)
    with (segments_of(output) / "journal.jsonl").open("a") as file:
        file.write(line + "\n")
    run(clip, output, resume=True)
    assert content(output).times == content(clip).times


def test_a_journal_without_a_head(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    broken_job(clip, output)
    (segments_of(output) / "journal.jsonl").write_bytes(b"\xff\xfe garbage\n")
    assert main(["run", "-q", "--resume", str(clip), str(output)]) == 2
    assert "start over" in capfd.readouterr().err
    run(clip, output)
    assert content(output).times == content(clip).times


def test_somebody_elses_file_in_the_folder_stays(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    segments_of(output).mkdir()
    treasure = segments_of(output) / "notes.txt"
    treasure.write_text("mine")
    run(clip, output)
    assert content(output).times == content(clip).times
    assert treasure.read_text() == "mine"


def test_two_jobs_with_one_output(clip: Path, tmp_path: Path) -> None:
    """The second is told, whether it would be cut into segments or not; the first goes on."""
    output, refused = tmp_path / "out.mp4", []
    short = make_clip(tmp_path / "short.mp4", frames=SEGMENT)

    def second(done: int, reader: Reader, statistics: Statistics) -> None:  # noqa: ARG001
        if done == SEGMENT + 2:
            for other in (clip, short):
                with pytest.raises(OutputError, match="another job") as caught:
                    run(other, output)
                refused.append(caught)

    run(clip, output, progress=second)
    assert len(refused) == 2
    assert content(output).times == content(clip).times
