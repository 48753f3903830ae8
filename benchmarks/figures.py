"""Draws docs/explain.jpg, what the shipped model thinks of the demo's portrait, and docs/demo.jpg,
the demo's contact sheet: ``python benchmarks/figures.py``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
from skimage import data

from fusematte.engine.diagnostics.demo import run_demo
from fusematte.engine.matting.matter import Matter
from fusematte.training.explain import explain
from fusematte.training.geometry import Picture
from fusematte.training.samples import decode_image

DOCS = Path(__file__).parents[1] / "docs"
QUALITY = 85


def main() -> None:
    """Writes the pictures."""
    with Matter() as matter:
        write("explain.jpg", explain(data.astronaut(), matter))
    with TemporaryDirectory() as folder:
        sheet = run_demo(Path(folder)).sheet
        write("demo.jpg", decode_image(sheet.read_bytes(), sheet.name))


def write(name: str, picture: Picture) -> None:
    """A picture of the documentation as JPEG."""
    cv2.imwrite(str(DOCS / name), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    print(DOCS / name)


if __name__ == "__main__":
    main()
