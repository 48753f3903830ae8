"""The page of frames to check: what is measured, what is picked, that it stands alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import make_clip, matte_of

from fusematte.cli import main
from fusematte.engine.jobs.measures import MOST_FRAMES, NEIGHBOURS, Measure, Measures, suspects
from fusematte.engine.media import segments
from fusematte.engine.media.segments import Span


def calm(count: int) -> list[Measure]:
    """A video in which little happens."""
    noise = np.random.default_rng(0).normal(0, 1e-4, count)
    return [Measure(i, 0.96 + n, 0.4, 0.003 + n, 0.004) for i, n in enumerate(noise)]


def test_nothing_stands_out_of_a_calm_video() -> None:
    assert suspects(calm(200)) == []
    assert suspects(calm(1)) == []
    assert suspects([]) == []


def test_jumps_and_doubts_are_found() -> None:
    measures = calm(200)
    measures[50] = measures[50]._replace(change=0.2)
    measures[51] = measures[51]._replace(change=0.1)  # on its way back: one look is enough
    measures[120] = measures[120]._replace(confidence=0.7)
    found = suspects(measures)
    assert [suspect.frame for suspect in found] == [50, 120]
    assert "jumps" in found[0].why and "confidence: 0.700" in found[1].why


def test_where_a_selection_is_in_doubt_comes_first() -> None:
    measures = calm(200)
    for index in range(60, 80):
        measures[index] = measures[index]._replace(doubt="lost")
    measures[80] = measures[80]._replace(doubt="two")
    measures[150] = measures[150]._replace(confidence=0.7)
    lost, two, unsure = suspects(measures)
    assert [(suspect.frame, suspect.why) for suspect in (lost, two)] == [(60, "lost"), (80, "two")]
    assert min(lost.severity, two.severity) > unsure.severity


def test_a_cut_of_the_picture_is_no_jump() -> None:
    measures = calm(100)
    measures[40] = measures[40]._replace(change=0.2, motion=0.3)
    assert suspects(measures) == []


def test_the_worst_are_kept_in_order() -> None:
    measures = calm(4000)
    for index in range(20, 4000, 2 * NEIGHBOURS):
        measures[index] = measures[index]._replace(change=0.1 + index / 1e5)
    found = suspects(measures)
    assert len(found) == MOST_FRAMES
    assert [s.frame for s in found] == sorted(s.frame for s in found)
    assert found[0].frame > 3000


def test_measures_of_a_segment_know_the_frame_before(tmp_path: Path) -> None:
    from fusematte.engine.media.reader import Reader

    with Reader(make_clip(tmp_path / "in.mp4", frames=3)) as reader:
        frames = list(reader)
    alphas = [np.full((32, 32), value, np.float32) for value in (0.2, 0.5, 0.5)]
    pts = [frame.pts for frame in frames]
    whole, late = Measures(), Measures(Span(pts[1], None, pts[0], pts[0]))
    for frame, alpha in zip(frames, alphas, strict=True):
        whole(matte_of(frame, alpha))
        late(matte_of(frame, alpha))
    assert late.rows == whole.rows[1:]
    assert [row.change for row in whole.rows] == pytest.approx([0, 0.3, 0], abs=1e-5)
    assert [row.coverage for row in whole.rows] == pytest.approx([0.2, 0.5, 0.5], abs=1e-5)
    assert whole.rows[0].confidence == 1
    assert whole.rows[1].motion > 0


@pytest.mark.parametrize("segment", [6, 600])
def test_the_page_stands_alone(
    tmp_path: Path, segment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "FRAMES", segment)
    clip = make_clip(tmp_path / "in.mp4", frames=14, options={"g": "6", "keyint_min": "6"})
    folder = tmp_path / "report"
    command = ["run", "-q", str(clip), str(tmp_path / "out.mp4"), "-b", "blur"]
    assert main([*command, "--report", str(folder)]) == 0
    page = (folder / "out.mp4.html").read_text()
    assert page.count("<polyline") == 3 and "14 frames" in page
    pictures = re.findall(r'src="([^"]{30})', page)
    assert len(pictures) >= 24  # twelve of the input, twelve of the output
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    assert not re.search(r'(src|href)="(?!data:)', page)
    for text in ("Settings and versions", "blur", "version of openvino", "fusematte", "edge 0."):
        assert text in page


def test_a_report_that_cannot_be_written_is_told_first(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    (tmp_path / "file").touch()
    command = ["run", "-q", str(clip), str(tmp_path / "out.mp4"), "--report"]
    assert main([*command, str(tmp_path / "file")]) == 5
    (line,) = capfd.readouterr().err.splitlines()
    assert "the report cannot be written" in line
    assert main(["run", "-q", "-", str(tmp_path / "out.mp4"), "--report", str(tmp_path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "reads the input twice" in line
    assert not (tmp_path / "out.mp4").exists()
