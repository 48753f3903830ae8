"""``fusematte demo``."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from tests.helpers import content

from fusematte.cli import main

pytestmark = pytest.mark.usefixtures("small_network")


def test_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage")
    folder = tmp_path / "demo"
    assert main(["demo", "-q", "--output-dir", str(folder)]) == 0
    said = capfd.readouterr().out
    clip, composite, alpha = (folder / f"{name}.mp4" for name in ("clip", "composite", "alpha"))
    for path in (clip, composite, alpha, folder / "contact-sheet.png"):
        assert path.exists()
        assert str(path) in said
    assert content(composite).times == content(alpha).times == content(clip).times
    sheet = cv2.imread(str(folder / "contact-sheet.png"))
    assert sheet is not None and sheet.shape[1] == 5 * 256
    # The astronaut's face, in the middle of the third picture, is hers and not the sky's.
    rows = sheet.shape[0] // 3
    face = sheet[2 * rows + rows // 3, 2 * 256 + 128]
    corner = sheet[2 * rows + 8, 4 * 256 + 248]
    assert face.min() > 200
    assert corner.max() < 100
