"""Batches through the command line: every file has its result, one bad one stops no other."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from tests.helpers import content, make_clip

from fusematte.cli import main
from fusematte.engine.errors import InputError, UsageError
from fusematte.engine.jobs import batch
from fusematte.engine.jobs.batch import find_items

pytestmark = pytest.mark.usefixtures("small_network")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, one of them further down, a broken one and other things."""
    source = tmp_path / "in"
    (source / "more").mkdir(parents=True)
    make_clip(source / "a.mp4", frames=3, audio=True)
    make_clip(source / "more" / "c.mkv", frames=4)
    (source / "b.mov").write_text("no video")
    (source / "notes.txt").write_text("no video either")
    return source


def report_of(output: Path) -> dict[str, dict[str, object]]:
    rows = json.loads((output / "report.json").read_text())["files"]
    return {Path(row["input"]).name: row for row in rows}


def test_a_folder_with_a_bad_file(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = ["batch", str(folder), "--output-dir", str(output), "-b", "blur"]
    assert main(command) == 3
    said = capfd.readouterr()
    assert "b.mov" in said.err and "Traceback" not in said.err
    header, *rows, total = said.out.strip().splitlines()[-5:]
    assert header.split() == ["file", "result", "frames", "seconds", "fps"]
    assert [row.split()[:2] for row in rows] == [
        ["a.mp4", "done"],
        ["b.mov", "failed"],
        ["c.mkv", "done"],
    ]
    assert total == "2 done, 1 failed"
    assert content(output / "a.mp4").times == content(folder / "a.mp4").times
    assert content(output / "more" / "c.mp4").times == content(folder / "more" / "c.mkv").times
    report = report_of(output)
    assert report["a.mp4"]["frames"] == 3 and report["a.mp4"]["code"] == 0
    assert report["b.mov"]["code"] == 3 and "b.mov" in str(report["b.mov"]["error"])
    check_resume(folder, output, command)


def test_files_of_one_name_have_a_page_each(tmp_path: Path) -> None:
    source, output, pages = (tmp_path / name for name in ("in", "out", "pages"))
    for folder in (source, source / "more"):
        folder.mkdir()
        make_clip(folder / "a.mp4", frames=2)
    command = ["batch", "-q", str(source), "-o", str(output), "--light-wrap", "0.2"]
    assert main([*command, "--report", str(pages)]) == 0
    made = sorted(path.relative_to(pages) for path in pages.rglob("*.html"))
    assert made == [Path("a.mp4.html"), Path("more/a.mp4.html")]


def test_an_error_nobody_thought_of_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("first line\nand an array")

    monkeypatch.setattr(batch, "run_job", fail)
    assert main(["batch", "-q", str(folder), "-o", str(tmp_path / "out")]) == 1
    assert str(report_of(tmp_path / "out")["a.mp4"]["error"]).endswith("TypeError: first line")


def check_resume(folder: Path, output: Path, command: list[str]) -> None:
    """A second batch keeps what is done and does the rest."""
    made = (output / "a.mp4").stat().st_mtime_ns
    make_clip(folder / "b.mov", frames=2)
    (output / "more" / "c.mp4").unlink()
    assert main([*command, "-q", "--resume"]) == 0
    assert (output / "a.mp4").stat().st_mtime_ns == made
    states = {name: row["status"] for name, row in report_of(output).items()}
    assert states == {"a.mp4": "kept", "b.mov": "done", "c.mkv": "done"}


def test_a_manifest_with_options_of_its_own(folder: Path, tmp_path: Path) -> None:
    manifest, output = folder / "list.txt", tmp_path / "out"
    row = {"input": "more/c.mkv", "output": "d.mkv", "crf": 30, "alpha_output": "alpha.mkv"}
    mask = {"input": "a.mp4", "output": "mask_%d.png", "background": "mask"}
    manifest.write_text(f"# what to do\n\na.mp4\n{json.dumps(row)}\n{json.dumps(mask)}\n")
    assert main(["batch", "-q", str(manifest), "-o", str(output)]) == 0
    names = {path.name for path in output.iterdir()}
    masks = {f"mask_{number}.png" for number in (1, 2, 3)}
    assert names == {"a.mp4", "d.mkv", "alpha.mkv", "report.json"} | masks
    for name in masks:
        shown = cv2.imread(str(output / name), cv2.IMREAD_UNCHANGED)
        assert shown is not None and shown.ndim == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"output": "x.mp4"}', "line 1: has no input"),
        ('{"input": ', "line 1: is neither a path nor a JSON object"),
        ('{"input": "a.mp4", "color": 3}', "line 1: unknown option 'color'"),
        ("a.mp4\nmore/a.mov", r"a\.mp4: two inputs"),
    ],
)
def test_bad_manifests(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(line)
    with pytest.raises(UsageError, match=message):
        find_items(tmp_path / "list.txt", tmp_path)


def test_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")
    for name, message in (("missing", "no such"), ("empty", "no video"), ("binary", "manifest")):
        with pytest.raises(InputError, match=message):
            find_items(tmp_path / name, tmp_path / "out")


def test_results_within_the_folder_are_no_inputs(folder: Path) -> None:
    (folder / "out").mkdir()
    make_clip(folder / "out" / "a.mp4", frames=1)
    items = find_items(folder, folder / "out")
    assert [item.input.name for item in items] == ["a.mp4", "b.mov", "c.mkv"]


def test_errors_are_one_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    def said(code: int, *arguments: object) -> str:
        assert main(["batch", "-q", *map(str, arguments)]) == code
        (line,) = capfd.readouterr().err.splitlines()
        return line

    assert "missing" in said(3, tmp_path / "missing", "-o", tmp_path / "out")
    assert "file" in said(5, folder, "-o", tmp_path / "file" / "out")


def test_a_bad_option_is_each_files_own_error(folder: Path, tmp_path: Path) -> None:
    (folder / "list.txt").write_text('{"input": "a.mp4", "crf": "low"}\n{"input": "more/c.mkv"}\n')
    output = tmp_path / "out"
    assert main(["batch", "-q", str(folder / "list.txt"), "-o", str(output)]) == 2
    assert report_of(output)["a.mp4"]["status"] == "failed"
    assert report_of(output)["c.mkv"]["status"] == "done"
