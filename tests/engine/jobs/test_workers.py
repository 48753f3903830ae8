"""Segments and files side by side in processes, and what can go wrong there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.helpers import clip_of_two_sizes, content, make_clip, pictures_of, wait_for

from fusematte.cli import main
from fusematte.engine.errors import BackendError, UsageError
from fusematte.engine.jobs.run import run
from fusematte.engine.jobs.segmented import segments_of
from fusematte.engine.jobs.workers import MOST, Processes
from fusematte.engine.media import segments

OPTIONS = {"g": "8", "keyint_min": "8"}
BACKEND = "openvino:cpu:f32"
"""One that is not tuned: a worker is new each time."""
FRAMES = 48


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three segments long."""
    monkeypatch.setattr(segments, "FRAMES", 16)
    return make_clip(tmp_path / "in.mp4", frames=FRAMES, audio=True, options=OPTIONS)


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The children of a process that Python's multiprocessing has made to work."""
    found = []
    for child in process.children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_side_by_side_is_as_one_after_the_other(
    clip: Path, tmp_path: Path, small_model: str
) -> None:
    here, side, alpha = (tmp_path / f"{name}.mp4" for name in ("here", "side", "alpha"))
    run(clip, here, background="blur", model=small_model, backend=BACKEND)
    seen: list[int] = []
    done = run(
        clip,
        side,
        background="blur",
        alpha_output=alpha,
        model=small_model,
        backend=BACKEND,
        jobs=2,
        progress=lambda frames, *_: seen.append(frames),
    )
    assert done.frames == FRAMES
    assert seen == [16, 32, 48]
    assert content(side) == content(here)
    assert content(alpha).times == content(clip).times
    for a, b in zip(pictures_of(side), pictures_of(here), strict=True):
        assert np.abs(a.astype(int) - b).mean() < 3
    assert not segments_of(side).exists()
    assert not workers_of(psutil.Process())


def test_warnings_of_workers_are_told_once(
    tmp_path: Path,
    small_model: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(segments, "FRAMES", 10)
    clip, output = clip_of_two_sizes(tmp_path / "in.ts", FRAMES), tmp_path / "out.mp4"
    assert run(clip, output, model=small_model, backend=BACKEND, jobs=2).frames == FRAMES
    assert [text for text in caplog.messages if "the size changes" in text] == [
        text for text in caplog.messages if "in.ts" in text
    ]
    assert sum("the size changes" in text for text in caplog.messages) == 1
    assert "the size changes" not in capfd.readouterr().err
    assert len(content(output).times) == FRAMES


def test_a_dead_worker_is_an_error_and_resume_goes_on(
    clip: Path, tmp_path: Path, small_model: str
) -> None:
    output = tmp_path / "out.mp4"
    options: dict[str, Any] = {"model": small_model, "backend": BACKEND, "jobs": 2}

    def kill(frames: int, *_: object) -> None:  # noqa: ARG001
        for worker in workers_of(psutil.Process()):
            worker.kill()

    with pytest.raises(BackendError, match="a worker process died"):
        run(clip, output, **options, progress=kill)
    assert not output.exists()
    assert segments_of(output).is_dir()
    assert run(clip, output, **options, resume=True).frames == FRAMES
    assert content(output).times == content(clip).times


def start(clip: Path, output: Path) -> subprocess.Popen[str]:
    code = (
        "import sys; from fusematte.engine.media import segments; from fusematte.cli import main; "
        "segments.FRAMES = 100; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "run", "--jobs", "2", "--backend", BACKEND, clip, output]
    return subprocess.Popen(
        [*map(str, command)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
@pytest.mark.parametrize(
    "ending", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_no_worker_outlives_the_job(ending: signal.Signals, tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "in.mp4", width=640, height=480, frames=400, options={"g": "50"}
    )  # long enough to be in the middle of it
    output = tmp_path / "out.mp4"
    process = start(clip, output)
    first = segments_of(output) / "000000-output.mp4.part"
    wait_for(lambda: (first.exists() and first.stat().st_size > 1000) or process.poll() is not None)
    workers = workers_of(psutil.Process(process.pid))
    assert len(workers) == 2
    # A terminal sends Ctrl-C to all of them.
    os.killpg(process.pid, ending) if ending == signal.SIGINT else process.send_signal(ending)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert not output.exists()
    if ending == signal.SIGINT:
        part = content(tmp_path / "out.mp4.part").times
        assert 0 < len(part) < 400
        assert part == content(clip).times[: len(part)]


def test_files_of_a_batch_side_by_side(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], small_model: str
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in "abc":
        make_clip(source / f"{name}.mp4", frames=4)
    (source / "d.mp4").write_text("no video")
    command = ["batch", "-q", str(source), "-o", str(output), "--jobs", "2"]
    assert main([*command, "--model", small_model, "--backend", BACKEND]) == 3
    assert "d.mp4" in capfd.readouterr().err
    for name in "abc":
        assert content(output / f"{name}.mp4").times == content(source / f"{name}.mp4").times
    assert json.loads((output / "report.json").read_text())["summary"] == {"done": 3, "failed": 1}


def test_counts_that_cannot_be(clip: Path, tmp_path: Path) -> None:
    for count in (0, MOST + 1):
        with pytest.raises(UsageError, match=f"jobs must be 1 to .*, not {count}"):
            Processes(count)
    with pytest.raises(UsageError, match="leave one out"):
        run(clip, tmp_path / "out.mp4", jobs=2, cluster="auto")


def test_what_cannot_be_cut_is_done_in_one_piece(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.avi"
    assert run(clip, output, jobs=2).frames == FRAMES
    assert "cannot be joined from segments" in caplog.text
