"""What the documents say is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fusematte.cli import EXIT_CODES, build_parser
from fusematte.engine import errors
from tests.helpers import content, make_clip

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clip = make_clip(tmp_path / "talk.mp4")
    make_clip(tmp_path / "beach.mp4").rename(tmp_path / "beach.jpg")  # a video by any name
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})
    assert content(tmp_path / "out.mp4").times == content(clip).times


def test_the_commands_of_the_documents_parse() -> None:
    documents = [README, *(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))]
    text = "\n".join(documents)
    commands = re.findall(r"^(?:torchrun .* -m )?fusematte (.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 4
    for synopsis in commands:
        command = re.sub(r"\|[\w-]+", "", synopsis)  # of alternatives the first
        build_parser(command.split()).parse_args(command.split())


def test_the_exit_codes_are_documented() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    codes = {k.exit_code for k in kinds if issubclass(k, errors.FuseMatteError)} - {1}
    for code in codes | {errors.INTERRUPTED}:
        assert f"| {code} |" in README
        assert re.search(rf"\b{code} ", EXIT_CODES)


def test_links_within_the_repository_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
