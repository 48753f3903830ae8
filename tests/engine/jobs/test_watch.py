"""A folder that is watched: every video once, when it is complete."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.helpers import content, make_clip

from fusematte.cli import main
from fusematte.engine.jobs import watch
from fusematte.engine.jobs.batch import Item, find_in_folder
from fusematte.engine.jobs.watch import Watch

pytestmark = pytest.mark.usefixtures("small_network")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def names(looked: Watch) -> list[str]:
    return [item.input.name for item in looked.look()]


def test_a_video_is_due_once_when_it_no_longer_grows(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    looked = Watch(partial(find_in_folder, source, tmp_path / "out", ".mp4"))
    assert names(looked) == []
    clip, stamps = source / "a.mp4", itertools.count(1)

    def write(data: bytes) -> None:
        clip.write_bytes(data)
        os.utime(clip, (9, next(stamps)))

    write(b"half")
    assert names(looked) == []
    write(b"half and")
    assert names(looked) == []
    assert names(looked) == ["a.mp4"]
    assert names(looked) == []
    write(b"replaced")
    assert [names(looked) for _ in range(3)] == [[], ["a.mp4"], []]
    clip.with_suffix(".mov").write_bytes(b"another")
    assert [names(looked) for _ in range(3)] == [[], [], []]
    assert "a.mov: would be written where" in caplog.text
    clip.unlink()
    assert names(looked) == []


def test_the_command_does_what_comes_and_goes_on_after_a_bad_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_clip(source / "a.mp4", frames=3)
    monkeypatch.setattr(watch, "INTERVAL", 0.0)
    looks = Watch.look

    def stages() -> Iterator[None]:
        yield
        (source / "b.mp4").write_bytes(b"no video")
        yield
        make_clip(source / "c.mp4", frames=4)
        yield
        yield
        raise KeyboardInterrupt

    coming = stages()

    def look(self: Watch) -> list[Item]:
        next(coming)
        return [*looks(self), *looks(self)]

    monkeypatch.setattr(Watch, "look", look)
    out = tmp_path / "out"
    assert main(["batch", str(source), "-o", str(out), "--watch"]) == 130
    assert "b.mp4" in capfd.readouterr().err
    for name, frames in (("a.mp4", 3), ("c.mp4", 4)):
        assert len(content(out / name).times) == frames
    rows = json.loads((out / "report.json").read_text("utf-8"))["files"]
    states = {Path(row["input"]).name: row["status"] for row in rows}
    assert states == {"a.mp4": "done", "b.mp4": "failed", "c.mp4": "done"}
    assert main(["batch", str(source / "a.mp4"), "-o", str(out), "--watch"]) == 2


def test_sigterm_ends_it(source: Path, tmp_path: Path) -> None:
    """As a container's stop does."""
    command = [sys.executable, "-m", "fusematte", "batch", str(source), "-o", str(tmp_path / "out")]
    with subprocess.Popen([*command, "--watch"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("watching")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
