"""Visualises the network's maps for a picture, as in the paper's figures 3 and 4.

Two rows: the picture, its alpha, the implicit trimap and the gap between F and 1 - B; then F,
1 - B, beta and the network's alpha.  Below, F, 1 - B and alpha along a short line through the
widest gap, which is marked in the picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Matte
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import refine
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.training.geometry import Picture

SOLID = 0.98
"""Probabilities above this count as 1."""
LINE = 48
WIDTH = 384
PLOT_HEIGHT = 220
FOREGROUND, BACKGROUND, ALPHA = (230, 70, 60), (60, 110, 230), (20, 20, 20)
"""Colours of F, 1 - B and alpha in the plot, RGB."""

Map = NDArray[np.float32]


def implicit_trimap(matte: Matte) -> Picture:
    """White where F is 1, black where B is 1, gray where both are below 1: [h, w] (figure 3)."""
    sure = np.maximum(matte.foreground, matte.background) >= SOLID
    solid = np.where(matte.foreground > matte.background, 255, 0)
    return np.where(sure, solid, 128).astype(np.uint8)


def widest_gap(matte: Matte) -> tuple[int, int]:
    """Row and first column of the line with the widest gap between F and 1 - B; it is LINE pixels
    long, at the network's resolution."""
    gap = np.abs(matte.foreground + matte.background - 1)
    length = min(LINE, gap.shape[1])
    sums = cv2.boxFilter(gap, -1, (length, 1), anchor=(0, 0), normalize=False)
    sums = sums[:, : gap.shape[1] - length + 1]
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(row), int(column)


def explain(picture: Picture, matter: Matter) -> Picture:
    """The sheet of one picture: [H, 4 * WIDTH, 3], RGB."""
    matter.reset()
    frame = frame_from_rgb(picture)
    matte = matter(frame)
    row, column = widest_gap(matte)
    gap = np.abs(matte.foreground + matte.background - 1)
    alpha = np.asarray(refine(frame, matte), np.uint8)
    tiles = (
        {
            "the picture": _mark(picture, matte, row, column),
            "alpha, refined": alpha,
            "implicit trimap": implicit_trimap(matte),
            "|F - (1 - B)|": codes(gap),
        },
        {
            "F": codes(matte.foreground),
            "1 - B": codes(1 - matte.background),
            "beta": codes(matte.beta),
            "alpha of the network": codes(matte.alpha),
        },
    )
    height = round(WIDTH * picture.shape[0] / picture.shape[1])
    rows = [np.hstack([_named(tile, name, height) for name, tile in row.items()]) for row in tiles]
    return np.vstack([*rows, plot_line(matte, row, column)])


def _mark(picture: Picture, matte: Matte, row: int, column: int) -> Picture:
    marked = picture.copy()
    height, width = picture.shape[:2]
    y = int((row + 0.5) * height / matte.alpha.shape[0])
    left, right = (int(x * width / matte.alpha.shape[1]) for x in (column, column + LINE))
    cv2.line(marked, (left, y), (right, y), FOREGROUND, max(2, height // 150))
    return marked


def plot_line(matte: Matte, row: int, column: int) -> Picture:
    """F, 1 - B and alpha along a line of the network's maps (figure 4): [PLOT_HEIGHT, W, 3]."""
    plot = np.full((PLOT_HEIGHT, 4 * WIDTH, 3), 255, np.uint8)
    curves = (
        ("F", matte.foreground, FOREGROUND),
        ("1 - B", 1 - matte.background, BACKGROUND),
        ("alpha", matte.alpha, ALPHA),
    )
    for index, (name, map, colour) in enumerate(curves):
        values = map[row, column : column + LINE]
        x = (np.arange(len(values)) + 0.5) * plot.shape[1] / len(values)
        y = 12 + (1 - values) * (PLOT_HEIGHT - 24)
        points = np.stack([x, y], 1).round().astype(np.int32)
        cv2.polylines(plot, [points], False, colour, 2, cv2.LINE_AA)
        _write(plot, name, (plot.shape[1] // 2 - 90 + 70 * index, PLOT_HEIGHT - 14), colour)
    return plot


def codes(map: Map) -> Picture:
    """A map 0..1 as 0..255."""
    return (map * 255 + 0.5).astype(np.uint8)


def _named(picture: Picture, name: str, height: int) -> Picture:
    tile = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
    colour = np.asarray(
        tile if tile.ndim == 3 else cv2.cvtColor(tile, cv2.COLOR_GRAY2RGB), np.uint8
    )
    (width, _), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    cv2.rectangle(colour, (0, 0), (width + 12, 26), (255, 255, 255), -1)
    _write(colour, name, (6, 18), ALPHA)
    return colour


def _write(picture: Picture, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
