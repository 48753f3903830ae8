"""Composites with known alpha, still and moving: people of one picture over another's room."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.training.geometry import Matrix, Picture, affine, resample
from fusematte.training.scenes import compose

FRAMES = 12
"""Length of a moving scene: half a second."""
ZOOM, ROOM_ZOOM = 1.2, 1.4
"""Large enough to keep the edges of the pictures out of view."""
SHIFT, SWAY, BREATH = 0.05, 4.0, 0.04
"""Amplitude of the motion: share of the width, degrees, share of the size."""

_warp = partial(resample, border=cv2.BORDER_REFLECT_101)


@dataclass(frozen=True)
class MovingScene:
    """A short clip with its true alphas and motion.

    Shape:
        images: [H, W, 3] RGB; alphas: [H, W], 0..255; flows: [H, W, 2], the displacement of the
        people's pixels to the next frame; one fewer than images.
    """

    images: list[Picture]
    alphas: list[Picture]
    flows: list[NDArray[np.float32]]


def cover(room: Picture, height: int, width: int) -> Picture:
    """The centre of a room, scaled to fill height x width."""
    scale = max(height / room.shape[0], width / room.shape[1])
    middle = np.array([room.shape[1], room.shape[0]]) / 2
    matrix = affine(np.diag([scale, scale]), (width / 2, height / 2) - scale * middle)
    return _warp(room, matrix, height, width)


def still(foreground: Picture, alpha: Picture, room: Picture) -> Picture:
    """People over a room of any size: [H, W, 3], of the people's size."""
    return compose(foreground, alpha, cover(room, *alpha.shape))


def moving(foreground: Picture, alpha: Picture, room: Picture, frames: int = FRAMES) -> MovingScene:
    """People who sway and drift before a room that a hand-held camera pans over."""
    height, width = alpha.shape
    room = cover(room, height, width)
    ours = list(_motion(height, width, frames, ZOOM, 1.0))
    rooms = _motion(height, width, frames, ROOM_ZOOM, -0.5)
    alphas = [_warp(alpha, matrix, height, width) for matrix in ours]
    images = [
        compose(
            _warp(foreground, matrix, height, width),
            moved,
            _warp(room, behind, height, width),
        )
        for matrix, behind, moved in zip(ours, rooms, alphas, strict=True)
    ]
    flows = [_flow(a, b, height, width) for a, b in pairwise(ours)]
    return MovingScene(images, alphas, flows)


def _motion(height: int, width: int, frames: int, zoom: float, amount: float) -> Iterator[Matrix]:
    for index in range(frames):
        phase = 2 * math.pi * index / 25
        scale = zoom * (1 + amount * BREATH * math.sin(phase))
        matrix = cv2.getRotationMatrix2D(
            (width / 2, height / 2), amount * SWAY * math.sin(2 * phase), scale
        )
        matrix[0, 2] += amount * SHIFT * width * math.sin(phase)
        yield np.vstack([matrix, (0, 0, 1)])


def _flow(now: Matrix, then: Matrix, height: int, width: int) -> NDArray[np.float32]:
    """[H, W, 2]: the displacement of each pixel."""
    step = then @ np.linalg.inv(now)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points = np.stack([x, y, np.ones_like(x)], 2)
    return np.asarray(points @ step[:2].T - points[..., :2], np.float32)
