"""Pictures with known alpha: people of one picture over the room of another, still and moving."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.training.geometry import Picture

FRAMES = 12
"""Of a moving scene: half a second."""
ZOOM, ROOM_ZOOM = 1.2, 1.4
"""So that no edge of the pictures comes into view."""
SHIFT, SWAY, BREATH = 0.05, 4.0, 0.04
"""How far people move: share of the width, degrees, share of the size."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class MovingScene:
    """A short clip with its true alphas and motion.

    Shape:
        images: [H, W, 3] RGB; alphas: [H, W], 0..255; flows: [H, W, 2], where the people's pixels
        go in the next frame; one fewer than there are images.
    """

    images: list[Picture]
    alphas: list[Picture]
    flows: list[NDArray[np.float32]]


def cover(room: Picture, height: int, width: int) -> Picture:
    """The middle of a room, resized to fill height x width."""
    scale = max(height / room.shape[0], width / room.shape[1])
    linear = np.diag([scale, scale])
    middle = np.array([room.shape[1], room.shape[0]]) / 2
    return _warp(
        room, np.column_stack([linear, (width / 2, height / 2) - linear @ middle]), height, width
    )


def compose(foreground: Picture, alpha: Picture, room: Picture) -> Picture:
    """People over a room of the same size, equation 1: [H, W, 3]."""
    weight = alpha.astype(np.float32)[..., None] / 255
    return (foreground * weight + room * (1 - weight) + 0.5).astype(np.uint8)


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
        compose(_warp(foreground, matrix, height, width), moved, _warp(room, behind, height, width))
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
        yield np.asarray(matrix, np.float64)


def _warp(picture: Picture, matrix: Matrix, height: int, width: int) -> Picture:
    # Pixel centres, not corners, go where the matrix says.
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    warped = cv2.warpAffine(
        picture, shifted, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(warped, np.uint8)


def _flow(now: Matrix, then: Matrix, height: int, width: int) -> NDArray[np.float32]:
    """[H, W, 2]: how far the motion takes each pixel."""
    step = np.vstack([then, (0, 0, 1)]) @ np.linalg.inv(np.vstack([now, (0, 0, 1)]))
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points = np.stack([x, y, np.ones_like(x)], 2)
    return np.asarray(points @ step[:2].T - points[..., :2], np.float32)
