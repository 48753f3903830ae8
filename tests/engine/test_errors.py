"""Errors carry what programs need: kind, exit code, path, option, remedy."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from tests.helpers import make_clip

from fusematte.cli import main
from fusematte.engine.errors import FuseMatteError, InputError, OutputError, UsageError


def test_the_remedy_ends_the_message() -> None:
    error = InputError("a.mp4: empty", path=Path("a.mp4"), remedy="use another file")
    assert str(error) == "a.mp4: empty; use another file"
    assert error.fields() == {
        "error": "InputError",
        "exit_code": 3,
        "message": "a.mp4: empty; use another file",
        "path": "a.mp4",
        "option": None,
        "remedy": "use another file",
    }


def test_an_error_without_fields() -> None:
    fields = FuseMatteError("no").fields()
    assert fields["message"] == "no"
    assert (fields["path"], fields["option"], fields["remedy"]) == (None, None, None)


def test_it_reaches_another_process() -> None:
    error = UsageError("light_wrap 3: from 0 to 1", option="light_wrap", remedy="use 0.5")
    assert pickle.loads(pickle.dumps(error)).fields() == error.fields()


def test_a_path_at_fault_begins_the_message() -> None:
    error = OutputError.at(Path("a.mp4"), "is a folder", remedy="give a file name")
    assert str(error) == "a.mp4: is a folder; give a file name"
    assert (error.path, error.remedy) == ("a.mp4", "give a file name")
    assert pickle.loads(pickle.dumps(error)).fields() == error.fields()


@pytest.mark.parametrize(
    ("command", "code", "path", "option", "remedy"),
    [
        ("run {none} out.mp4", 3, "{none}", None, "check the path"),
        ("run {text} {tmp}/a.mp4", 3, "{text}", None, "give a video file"),
        ("run {clip} {tmp}/a.mp4 --crf 99", 2, None, "crf", None),
        ("run {clip} {tmp}/a.mp4 --backend cuda", 8, None, "backend", "use auto, "),
        ("run {clip} {tmp}/a.mp4 --model none", 7, "none", None, "name a shipped one"),
        ("run {clip} {tmp}/no/a.mp4", 5, "{tmp}/no/a.mp4", None, "create it first"),
        ("run {clip} {tmp}/a.xyz", 2, "{tmp}/a.xyz", None, "use one of "),
        ("run {clip} {tmp}/a.mp4 -b none.jpg", 6, "none.jpg", "background", None),
        ("batch {none} -o {tmp}/out", 3, "{none}", None, "check the path"),
        ("batch {text} -o {tmp}/out --jobs 0", 3, "{text}", None, None),
        ("matte {none} -o {tmp}/out", 3, "{none}", None, None),
        ("bench --sizes wide", 2, None, None, "write WIDTHxHEIGHT"),
    ],
)  # fmt: skip
def test_programs_learn_what_is_at_fault(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    code: int,
    path: str | None,
    option: str | None,
    remedy: str | None,
) -> None:
    names = {"none": tmp_path / "none.mp4", "text": tmp_path / "text.bin", "tmp": tmp_path}
    names["clip"] = make_clip(tmp_path / "clip.mkv", times=[0, 40])
    names["text"].write_bytes(b"\xff\xfe no video")
    words = [word.format(**names) for word in command.split()]
    assert main([*words, "--json"]) == code
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert event["path"] == (path and path.format(**names))
    assert event["option"] == option
    assert (event["remedy"] or "").startswith(remedy or "")
    assert event["message"].endswith(event["remedy"] or "")
    assert bool(event["remedy"]) == bool(remedy)


def test_json_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.mp4"
    assert main(["run", str(missing), str(tmp_path / "out.mp4"), "--json"]) == 3
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert event["event"] == "error"
    assert (event["error"], event["exit_code"]) == ("InputError", 3)
    assert event["path"] == str(missing)
