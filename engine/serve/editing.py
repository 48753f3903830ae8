"""A video whose choice is edited on the page: its frames, and what prompts choose in them."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fusematte.engine.errors import InputError
from fusematte.engine.frame import Frame, Map, displayed_size
from fusematte.engine.matting.following import LEAST
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Selection, check
from fusematte.engine.media.files import jpeg
from fusematte.engine.media.reader import Reader
from fusematte.engine.pixels.fit import thumbnail

WIDTH = 960
"""Maximum width of a frame's picture, in pixels."""

Outline = list[list[list[float]]]
"""Polygons of points [x, y], in shares of the picture."""


def outline(alpha: Map) -> Outline:
    """The edges of what an alpha [h, w] keeps."""
    height, width = alpha.shape
    solid = (alpha > 0.5).astype(np.uint8)
    found, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    large = [edge for edge in found if cv2.contourArea(edge) > LEAST * solid.size]
    edges = [cv2.approxPolyDP(edge, 1.0, True)[:, 0] + 0.5 for edge in large]
    return [np.round(edge / (width, height), 4).tolist() for edge in edges]


def picture_at(path: Path, time: Fraction) -> bytes:
    """The frame at a time, in seconds from the video's beginning, as JPEG.

    Raises:
        InputError: the video cannot be read.
    """
    frame, (_, width) = _frame_at(path, time)
    return jpeg(thumbnail(frame, min(WIDTH, width)))


def outline_at(
    path: Path, time: Fraction, selection: Selection, options: dict[str, Any]
) -> Outline:
    """The outline of what prompts choose in the frame at a time.

    options: of the Matter.

    Raises:
        InputError: the video cannot be read.
        UsageError: a prompt lies outside the picture, or two contradict each other.
    """
    frame, size = _frame_at(path, time)
    prompts = check([replace(prompt, time=None) for prompt in selection], size)
    with Matter(**options) as matter:
        matter.choose(prompts)
        matte = matter(frame)
    return outline(np.rot90(matte.alpha, -(frame.rotation // 90)))


def _frame_at(path: Path, time: Fraction) -> tuple[Frame, tuple[int, int]]:
    """The first frame at or after a time, or the last one, and the (height, width) displayed."""
    with Reader(path) as reader:
        size, at = displayed_size(reader.info), reader.begin + time
        reader.seek(math.floor(at / reader.time_base))
        last = None
        for last in reader:
            if last.time >= at:
                break
    if last is None:
        raise InputError.at(path, f"has no frame at {float(time):g} s")
    return last, size
