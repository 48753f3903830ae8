"""One job alone writes an output, and nothing of anybody else is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers import content, make_clip, transcode

from fusematte.cli import main
from fusematte.engine.errors import OutputError
from fusematte.engine.media.locks import FolderLock
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.writer import Writer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks are those of POSIX")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", frames=12)


def test_two_writers_of_one_output(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    with Reader(clip) as reader, Writer(output, reader) as first:
        with pytest.raises(OutputError, match="another job is writing this"):
            transcode(clip, output)
        for frame in reader:
            first.write(frame)
    assert len(content(output).times) == 12
    transcode(clip, output)  # the lock went with the writer
    assert len(content(output).times) == 12


def test_a_refused_job_offers_nothing_of_the_other(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    with Reader(clip) as reader, Writer(output, reader) as first:
        for frame in reader:
            first.write(frame)
        assert main(["run", "-q", str(clip), str(output)]) == OutputError.exit_code
    said = capsys.readouterr().err
    assert "another job is writing this" in said
    assert "has the frames done so far" not in said


def test_a_killed_writer_leaves_no_lock(clip: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; from fusematte.engine.media.reader import Reader; "
        "from fusematte.engine.media.writer import Writer; "
        "writer = Writer(sys.argv[2], Reader(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    output = tmp_path / "out.mp4"
    subprocess.run([sys.executable, "-c", code, str(clip), str(output)])
    assert (tmp_path / "out.mp4.part").exists()
    transcode(clip, output)
    assert len(content(output).times) == 12


def test_a_link_at_part_is_not_followed(clip: Path, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("mine")
    (tmp_path / "out.mp4.part").symlink_to(treasure)
    with pytest.raises(OutputError, match=r"out\.mp4\.part: is a symbolic link"):
        transcode(clip, tmp_path / "out.mp4")
    assert treasure.read_text() == "mine"


def test_a_folder_at_part(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mp4.part").mkdir()
    with pytest.raises(OutputError, match=r"out\.mp4"):
        transcode(clip, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4.part").is_dir()


def test_one_job_in_a_folder(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(OutputError, match="another job"):
        FolderLock(tmp_path)
    lock.close()
    lock.close()
    FolderLock(tmp_path).close()
