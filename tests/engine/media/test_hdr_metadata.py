"""The mastering display's metadata, from input to output, also as ffprobe sees them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import make_clip
from tests.peers import run_tool

from fusematte.engine.frame import Mastering
from fusematte.engine.jobs.run import run
from fusematte.engine.media import segments
from fusematte.engine.media.hdr_metadata import mastering_options
from fusematte.engine.media.reader import Reader

DISPLAY = (34000, 16000, 13250, 34500, 7500, 3000, 15635, 16450)
"""P3 with D65, in 1/50000: x and y of red, green, blue and white."""
MASTERING = Mastering(
    (*(Fraction(x, 50_000) for x in DISPLAY), Fraction(1, 200), Fraction(1000)), (900, 400)
)
CODE = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    described = f"log-level=error:master-display={CODE}:max-cll=900,400:keyint=4"
    return make_clip(
        tmp_path / "in.mp4", frames=12, codec="libx265", pixel_format="yuv420p10le",
        color=(9, 9, 16, 1), options={"x265-params": described},
    )  # fmt: skip


def seen_by_ffprobe(path: Path) -> dict[str, Any]:
    """The side data of the first picture."""
    shown = "-select_streams", "v", "-read_intervals", "%+#1", "-show_frames", "-of", "json"
    (frame, *_) = json.loads(run_tool("ffprobe", *shown, path))["frames"]
    return {k: v for data in frame.get("side_data_list", []) for k, v in data.items()}


def test_options_of_encoders() -> None:
    assert mastering_options("libx265", MASTERING) == {
        "x265-params": f"master-display={CODE}:max-cll=900,400"
    }
    assert mastering_options("libx264", MASTERING._replace(display=None)) == {
        "x264-params": "cll=900,400"
    }
    assert mastering_options("libx265", Mastering()) == {}
    assert mastering_options("ffv1", MASTERING) is None


def test_a_video_without_has_none(tmp_path: Path) -> None:
    with Reader(make_clip(tmp_path / "in.mp4", frames=1)) as reader:
        assert reader.mastering == Mastering()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("out.mp4", "libx264"),
        ("out.mp4", "libx265"),
        ("out.mkv", "libx265"),
        ("a.mp4", "libsvtav1"),
    ],
)
def test_it_comes_out_as_it_went_in(source: Path, tmp_path: Path, name: str, codec: str) -> None:
    output = tmp_path / name
    run(source, output, codec=codec)
    with Reader(output) as reader:
        assert reader.mastering.light == MASTERING.light
        assert reader.mastering.display == pytest.approx(MASTERING.display, rel=0.01, abs=1e-4)
    if codec != "libx264":  # Debian's ffprobe does not look there
        found = seen_by_ffprobe(output)
        assert (found["max_content"], found["max_average"]) == (900, 400)
        assert Fraction(found["max_luminance"]) == 1000
        assert float(Fraction(found["red_x"])) == pytest.approx(0.68, abs=1e-4)


def test_it_survives_a_joint(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "FRAMES", 4)
    run(source, tmp_path / "out.mp4", codec="libx265")
    assert seen_by_ffprobe(tmp_path / "out.mp4")["max_content"] == 900


def test_codecs_that_cannot_say_so(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(source, tmp_path / "out.mov", codec="prores_ks", alpha_output=tmp_path / "alpha.mp4")
    told = [text for text in caplog.messages if "mastering metadata" in text]
    assert len(told) == 1 and "out.mov: prores_ks cannot" in told[0]
