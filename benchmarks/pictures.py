"""Makes the pictures of docs/pictures.md: what the shipped model does, good and bad.

    python benchmarks/pictures.py [--data DATA] [--more PICTURE ...]

``pictures.jpg`` shows free pictures (those that scikit-image brings, and ``--more``): the picture,
alpha, the implicit trimap, and the people over a plain colour.  ``mattes.jpg`` shows mattes of
validation samples, whose pictures may not be published: alpha, and alpha with the outline of the
mask that a human drew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from fusematte.engine.matting.matter import Matter
from fusematte.training.augment import Picture
from fusematte.training.evaluate import REFINED, Case, load_cases, stages
from fusematte.training.explain import codes, implicit_trimap
from fusematte.training.samples import decode_image, foreground_colour, shard_sources

DOCS = Path(__file__).parents[1] / "docs"
FREE = ("astronaut", "camera", "cat", "coffee", "rocket")
SAMPLES = [
    "vikram_265", "vikram_105", "vikram_35",
    "vikram_171", "vikram_168", "ccp_0144",
    "selfie_train1269", "selfie_train305", "eg1800_01060",
    "selfie_train897", "ccp_0396", "ccp_0219",
    "eg1800_02296", "eg1800_00166", "selfie_train634",
    "vikram_129", "selfie_train105", "ccp_0053",
]  # fmt: skip
COLOUR = np.array((40, 150, 90), np.float32)
OUTLINE = (255, 60, 40)
HEIGHT, WIDTH, QUALITY = 200, 1210, 82
GAP = 8


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DOCS.parents[1] / "shared" / "data")
    parser.add_argument("--more", type=Path, nargs="*", default=[])
    parser.add_argument("--samples", nargs="*", default=SAMPLES)
    args = parser.parse_args()
    free = [np.asarray(getattr(data, name)()) for name in FREE]
    free = [p if p.ndim == 3 else np.repeat(p[..., None], 3, 2) for p in free]
    more = [decode_image(path.read_bytes(), str(path)) for path in args.more]
    with Matter("edge") as matter:
        write(DOCS / "pictures.jpg", [free_row(picture, matter) for picture in more + free])
        rows = {case.name: matte_pair(case, matter) for case in chosen(args.data, args.samples)}
    write(DOCS / "mattes.jpg", [rows[name] for name in args.samples])


def free_row(picture: Picture, matter: Matter) -> Picture:
    """Picture, alpha, implicit trimap and the people over a colour, side by side."""
    alphas, matte = stages(picture, matter)
    alpha = codes(np.asarray(alphas[REFINED], np.float32))
    foreground = foreground_colour(picture, alpha)
    weight = np.asarray(alphas[REFINED], np.float32)[..., None]
    composite = (foreground * weight + COLOUR * (1 - weight) + 0.5).astype(np.uint8)
    return side_by_side([picture, alpha, implicit_trimap(matte), composite])


def chosen(folder: Path, names: list[str]) -> Iterator[Case]:
    """The validation samples of these names."""
    sources = [source for source in shard_sources(folder) if source.split == "val"]
    for case in load_cases(sources, []):
        if case.name in names:
            yield case


def matte_pair(case: Case, matter: Matter) -> Picture:
    """Alpha, and alpha with the outline of the human's mask."""
    assert case.image is not None and case.mask is not None
    alpha = codes(np.asarray(stages(case.image, matter)[0][REFINED], np.float32))
    compared = cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB)
    mask = np.asarray(case.mask > 127, np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(compared, outlines, -1, OUTLINE, 2)
    return side_by_side([alpha, np.asarray(compared, np.uint8)])


def side_by_side(pictures: list[Picture]) -> Picture:
    """Pictures of one shape in a row, HEIGHT pixels high."""
    height, width = pictures[0].shape[:2]
    size = (round(width * HEIGHT / height), HEIGHT)
    tiles = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    return np.hstack(
        [t if t.ndim == 3 else cv2.cvtColor(t, cv2.COLOR_GRAY2RGB) for t in tiles]
    )  # fmt: skip


def write(path: Path, pictures: list[Picture], width: int = WIDTH) -> None:
    """Pictures one after another in lines of at most ``width`` pixels, as JPEG."""
    lines: list[list[Picture]] = [[]]
    for picture in pictures:
        if lines[-1] and sum(p.shape[1] + GAP for p in [*lines[-1], picture]) > width:
            lines.append([])
        lines[-1].append(picture)
    sheet = np.full((len(lines) * (HEIGHT + GAP), width, 3), 255, np.uint8)
    for row, line in enumerate(lines):
        x = 0
        for picture in line:
            sheet[row * (HEIGHT + GAP) :, x : x + picture.shape[1]][:HEIGHT] = picture
            x += picture.shape[1] + GAP
    bgr = cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    main()
