"""Fitting one picture to another's size and pixel format: scale to cover, crop, convert."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.cpp_ext import resize_to_tensor
from fusematte.engine.frame import Frame, Map, Planes
from fusematte.engine.pixels.color import convert_planes


def fit_frame(source: Frame, target: Frame) -> Planes:
    """``source`` scaled to cover ``target`` and cropped, in the pixel format of ``target``."""
    turns = (source.rotation - target.rotation) // 90 % 4
    height, width = target.height, target.width
    shape = float(width * target.aspect / height)
    if turns % 2:
        height, width, shape = width, height, 1 / shape
    planes = []
    for index, plane in enumerate(_crop(source, shape)):
        size = (height, width) if index == 0 else _chroma_size(target, turns)
        shrinks = plane.shape[0] > size[0]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        scaled = cv2.resize(plane, size[::-1], interpolation=method)
        planes.append(np.ascontiguousarray(np.rot90(scaled, -turns)))
    return convert_planes((planes[0], planes[1], planes[2]), source, target)


def _chroma_size(target: Frame, turns: int) -> tuple[int, int]:
    height, width = target.planes[1].shape
    return (width, height) if turns % 2 else (height, width)


def _crop(source: Frame, shape: float) -> Planes:
    """The centre of a frame, cropped to the display aspect ratio ``shape``: views."""
    own = float(source.width * source.aspect / source.height)
    width = source.width if own <= shape else max(1, round(source.width * shape / own))
    height = source.height if own >= shape else max(1, round(source.height * own / shape))
    x, y = (source.width - width) // 2, (source.height - height) // 2
    sx, sy = source.format.x_shift, source.format.y_shift
    luma = source.planes[0][y : y + height, x : x + width]
    chroma_height, chroma_width = source.format.chroma_shape(height, width)
    u, v = (
        plane[y >> sy : (y >> sy) + chroma_height, x >> sx : (x >> sx) + chroma_width]
        for plane in source.planes[1:]
    )
    return luma, u, v


def thumbnail(frame: Frame, width: int, height: int | None = None) -> NDArray[np.uint8]:
    """A small upright picture of a frame, as a player shows it: [height, width, 3], RGB, uint8.

    height: the picture is cropped to it; None keeps the frame's aspect ratio.
    """
    turned = frame.rotation in (90, 270)
    shape = float(frame.width * frame.aspect / frame.height)
    upright = 1 / shape if turned else shape
    rows = max(1, round(width / upright)) if height is None else height
    wanted = width / rows
    planes = frame.planes if height is None else _crop(frame, 1 / wanted if turned else wanted)
    size = (width, rows) if turned else (rows, width)
    small = resize_to_tensor(planes, *size, matrix=frame.matrix, levels=frame.levels)
    turned_up = np.rot90(small.rgb.transpose(1, 2, 0), -frame.rotation // 90)
    return np.ascontiguousarray((turned_up * 255 + 0.5).astype(np.uint8))


def shrink(picture: Map, factor: int) -> Map:
    """A map [h, w] at 1/factor of its size, area-averaged."""
    size = (max(1, picture.shape[1] // factor), max(1, picture.shape[0] // factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)
