"""Draws docs/explain.jpg, what the shipped model thinks of the demo's portrait:
``python benchmarks/figures.py``."""

from __future__ import annotations

from pathlib import Path

import cv2
from skimage import data

from fusematte.engine.matting.matter import Matter
from fusematte.training.explain import explain

TARGET = Path(__file__).parents[1] / "docs" / "explain.jpg"


def main() -> None:
    """Writes the picture."""
    with Matter() as matter:
        sheet = explain(data.astronaut(), matter)
    cv2.imwrite(str(TARGET), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(TARGET)


if __name__ == "__main__":
    main()
