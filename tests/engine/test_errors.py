"""Errors carry what programs need: kind, exit code, path, option, remedy."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from fusematte.cli import main
from fusematte.engine.errors import FuseMatteError, InputError, UsageError


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


def test_json_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.mp4"
    assert main(["run", str(missing), str(tmp_path / "out.mp4"), "--json"]) == 3
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert event["event"] == "error"
    assert (event["error"], event["exit_code"]) == ("InputError", 3)
    assert event["path"] == str(missing)
