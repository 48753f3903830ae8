"""Augmentation: geometry, colours, effects of cameras and codecs.

All randomness comes from the generator passed to each function.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.training.geometry import Matrix, Picture, affine, warp

Crop = Callable[[np.random.Generator, Picture, int, int], Matrix]
"""Takes a generator, a picture, height and width; returns the matrix from picture to crop."""


def random_affine(
    rng: np.random.Generator,
    picture: Picture,
    height: int,
    width: int,
    zoom: tuple[float, float] = (0.55, 1.9),
) -> Matrix:
    """The matrix from a picture to a height x width crop: scale, stretch, rotation, flip, shift.

    zoom: range of the scale; at 1 the picture just covers the crop, below it is mirrored at its
    edges.
    """
    ours = np.array([picture.shape[1], picture.shape[0]])
    cover, contain = (op(np.array([width, height]) / ours) for op in (np.max, np.min))
    low, high = zoom
    scale = np.exp(rng.uniform(np.log(max(contain, low * cover)), np.log(high * cover)))
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    angle = np.deg2rad(rng.normal(0, 7))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([flip * scale * stretch, scale / stretch])
    # The crop's centre is chosen so that the crop stays inside the picture, if it fits.
    room = np.maximum(ours - np.array([width, height]) / scale, 0.1 * ours)
    centre = ours / 2 + rng.uniform(-0.5, 0.5, 2) * room
    return affine(linear, np.array([width, height]) / 2 - linear @ centre)


def whole_picture(rng: np.random.Generator, alpha: Picture, height: int, width: int) -> Matrix:
    """The whole picture resized to the crop, slightly rotated, perhaps flipped: the paper's warm-up
    (section 3.4)."""
    rows, columns = alpha.shape[:2]
    linear = turn_and_flip(rng) @ np.diag([width / columns, height / rows])
    return affine(linear, np.array([width, height]) / 2 - linear @ (columns / 2, rows / 2))


def transition_crop(rng: np.random.Generator, alpha: Picture, height: int, width: int) -> Matrix:
    """A crop at the picture's own scale around a random pixel of the transition region, slightly
    rotated, perhaps flipped (section 3.4); around any pixel if there is no transition."""
    inside = np.flatnonzero((alpha > 0) & (alpha < 255))
    pixel = inside[rng.integers(len(inside))] if len(inside) else rng.integers(alpha.size)
    row, column = divmod(int(pixel), alpha.shape[1])
    linear = turn_and_flip(rng)
    return affine(linear, np.array([width, height]) / 2 - linear @ (column + 0.5, row + 0.5))


def turn_and_flip(rng: np.random.Generator) -> NDArray[np.float64]:
    """A rotation by up to 15 degrees, half of the time after a flip: [2, 2]."""
    angle = np.deg2rad(rng.uniform(-15, 15))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(turn @ np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0]), np.float64)


CROPS: dict[str, Crop] = {
    "affine": random_affine,
    "whole": whole_picture,
    "transition": transition_crop,
}
"""The kinds of crop."""


def jitter_colours(rng: np.random.Generator, image: Picture) -> Picture:
    """Random exposure, contrast, gamma, white balance and saturation."""
    levels = np.arange(256, dtype=np.float32) / 255
    gamma = np.exp(rng.normal(0, 0.25))
    contrast = np.exp(rng.normal(0, 0.15))
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.07, 3))
    offset = rng.normal(0, 0.05)
    curve = np.clip(((levels**gamma) - 0.5) * contrast + 0.5 + offset, 0, 1)
    table = np.clip(curve[:, None] * gain[None], 0, 1) * 255
    image = np.asarray(cv2.LUT(image, table.astype(np.uint8)[None]), np.uint8)
    keep = 0.0 if rng.random() < 0.05 else np.clip(rng.normal(1, 0.25), 0, 2)
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(image, float(keep), gray, float(1 - keep), 0), np.uint8)


def degrade(rng: np.random.Generator, image: Picture) -> Picture:
    """Effects of cameras and codecs: low light, soft focus, sensor noise, compression."""
    noise = rng.uniform(1, 12) if rng.random() < 0.4 else 0.0
    if rng.random() < 0.1:
        levels = 255 * (np.arange(256) / 255) ** rng.uniform(1.3, 2.2) * rng.uniform(0.4, 0.9)
        image = np.asarray(cv2.LUT(image, levels.astype(np.uint8)), np.uint8)
        noise += rng.uniform(3, 9)
    if rng.random() < 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.3)), np.uint8)
    if noise:
        grain = noise * rng.standard_normal(image.shape, np.float32)
        if rng.random() < 0.3:
            grain = 2 * np.asarray(cv2.GaussianBlur(grain, (0, 0), 0.8), np.float32)
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(25, 90))
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image


def spoil(rng: np.random.Generator, alpha: Picture) -> Picture:
    """A simulated previous alpha with a network's errors: moved, softened, partly wrong."""
    height, width = alpha.shape
    spread = rng.choice([0.003, 0.01, 0.04])
    turn = cv2.getRotationMatrix2D(
        (width / 2, height / 2),
        float(np.rad2deg(rng.normal(0, spread))),
        float(np.exp(rng.normal(0, spread))),
    )
    matrix = np.vstack([turn, (0, 0, 1)])
    matrix[:2, 2] += rng.normal(0, spread, 2) * (width, height)
    spoilt = warp(alpha, matrix, height, width, cv2.BORDER_REPLICATE)
    if rng.random() < 0.4:
        spoilt = np.asarray(cv2.blur(spoilt, (int(rng.integers(2, 9)),) * 2), np.uint8)
    if rng.random() < 0.3:
        kernel = np.ones((int(rng.integers(2, 8)),) * 2, np.uint8)
        grow = cv2.dilate if rng.random() < 0.5 else cv2.erode
        spoilt = np.asarray(grow(spoilt, kernel), np.uint8)
    # Missing and additional parts: the network must learn not to repeat its earlier errors.
    for _ in range(rng.integers(0, 4) if rng.random() < 0.5 else 0):
        middle = rng.integers(0, (width, height))
        axes = rng.integers(height // 16, height // 3, 2)
        value = float(rng.choice([0, 255]))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(spoilt, (middle.tolist(), axes.tolist(), angle), value, -1)
    if rng.random() < 0.2:
        spoilt = (spoilt * rng.uniform(0.4, 0.95)).astype(np.uint8)
    return spoilt
