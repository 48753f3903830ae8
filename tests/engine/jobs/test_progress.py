"""How progress is told."""

from __future__ import annotations

import io
import json

import pytest
from tests.helpers import make_clip

from fusematte.engine.jobs import progress
from fusematte.engine.jobs.progress import (
    BAR_WIDTH,
    JsonProgress,
    ProgressReport,
    bar,
    clock,
    describe,
)
from fusematte.engine.media.reader import Reader
from fusematte.engine.pipeline import Statistics


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", frames=12))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (36_061, "10:01:01"),
    ],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("frames", "total", "rate", "text"),
    [
        (120, 900, 25.1, "120/900 frames, 25.1 fps, 0:31 left"),  # 780 / 25.1 = 31.08 s
        (900, 900, 30, "900/900 frames, 30.0 fps, 0:00 left"),
        (120, None, 25.1, "120 frames, 25.1 fps"),
        (901, 900, 30, "901 frames, 30.0 fps"),  # the container's estimate was too low
        (0, 900, 0, "0/900 frames, 0.0 fps, 0:00 left"),
    ],
)
def test_describe(frames: int, total: int | None, rate: float, text: str) -> None:
    assert describe(frames, total, rate) == text


def test_bar_fills_up() -> None:
    assert bar(0, 60) == "[" + "·" * BAR_WIDTH + "]   0% "
    assert bar(20, 60) == "[" + "█" * (BAR_WIDTH // 3) + "·" * (BAR_WIDTH * 2 // 3) + "]  33% "
    assert bar(60, 60) == "[" + "█" * BAR_WIDTH + "] 100% "
    assert len({len(bar(n, 60)) for n in range(61)}) == 1  # nothing behind it jumps


@pytest.mark.parametrize("total", [None, 0, 5])
def test_no_bar_where_the_total_is_unknown(total: int | None) -> None:
    assert bar(6, total) == ""


def test_terminal_gets_one_line_that_is_redrawn(
    monkeypatch: pytest.MonkeyPatch, reader: Reader
) -> None:
    monkeypatch.setattr(progress, "BAR_INTERVAL", 0.0)
    stream = Terminal()
    report = ProgressReport(stream)
    report(6, reader, Statistics())
    report(12, reader, Statistics())
    report.clear()
    _, half, whole, wiped = stream.getvalue().split("\r")
    assert "]  50% 6/12 frames" in half
    assert "] 100% 12/12 frames" in whole
    assert wiped == "\x1b[K"
    assert "\n" not in stream.getvalue()


def test_file_gets_plain_lines(monkeypatch: pytest.MonkeyPatch, reader: Reader) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    stream = io.StringIO()
    report = ProgressReport(stream)
    report(6, reader, Statistics())
    report.clear()
    text = stream.getvalue()
    assert text.startswith("6/12 frames, ")
    assert text.endswith(" left\n")
    assert not {"\r", "\x1b", "█"} & set(text)


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_says_nothing_before_its_interval(kind: type[io.StringIO], reader: Reader) -> None:
    stream = kind()
    report = ProgressReport(stream)
    report(1, reader, Statistics())
    assert stream.getvalue() == ""


def test_reports_go_to_stderr(
    monkeypatch: pytest.MonkeyPatch, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    ProgressReport()(3, reader, Statistics())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("3/12 frames")


def test_several_files_have_one_bar(monkeypatch: pytest.MonkeyPatch, reader: Reader) -> None:
    monkeypatch.setattr(progress, "BAR_INTERVAL", 0.0)
    stream = Terminal()
    report = ProgressReport(stream)
    report.files = 4
    report.finish("b.mp4")
    report(6, reader, Statistics())
    shown = stream.getvalue()
    assert "]  37% 1/4 files, 0:0" in shown and "left: a.mp4 50 %" in shown  # 1.5 of 4
    report.finish(reader.name)
    report(0, reader, Statistics())
    assert "]  50% 2/4 files" in stream.getvalue()


def test_other_work_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    monkeypatch.setattr(progress, "JSON_INTERVAL", 0.0)
    stream = io.StringIO()
    report, lines = ProgressReport(stream), JsonProgress(stream)
    report.count(0, 9, "pictures")
    report.count(3, 9, "pictures")
    report.count(3, None, "samples")
    lines.count(3, 9, "steps", loss=0.5)
    first, second, third, last = stream.getvalue().splitlines()
    assert (first, third) == ("0/9 pictures", "3 samples")
    assert second == "3/9 pictures, 0:00 left"
    told = json.loads(last)
    assert told.pop("seconds_left") >= 0
    assert told == {"event": "progress", "done": 3, "total": 9, "unit": "steps", "loss": 0.5}
