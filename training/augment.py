"""What pictures go through before the network sees them: geometry, colours, cameras and codecs.

Every function draws from the generator it is given and from nothing else.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def random_affine(rng: np.random.Generator, picture: Picture, size: int) -> NDArray[np.float64]:
    """A 2x3 matrix from a picture to a size x size crop: scale, stretch, turn, flip, shift."""
    height, width = picture.shape[:2]
    cover = size / min(height, width)
    contain = size / max(height, width)
    # From the whole picture in view (mirrored at its edges) to a crop of half of its short side.
    scale = np.exp(rng.uniform(np.log(max(contain, 0.55 * cover)), np.log(1.9 * cover)))
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    angle = np.deg2rad(rng.normal(0, 7))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([flip * scale * stretch, scale / stretch])
    # The crop's centre falls where the crop stays inside the picture, if it fits at all.
    room = np.maximum(np.array([width, height]) - size / scale, 0.1 * np.array([width, height]))
    centre = np.array([width, height]) / 2 + rng.uniform(-0.5, 0.5, 2) * room
    return np.column_stack([linear, size / 2 - linear @ centre])


def whole_picture(rng: np.random.Generator, alpha: Picture, size: int) -> NDArray[np.float64]:
    """The whole picture resized to size x size, a little turned, perhaps flipped: the paper's
    warm-up (section 3.4)."""
    height, width = alpha.shape
    linear = _turn_and_flip(rng) @ np.diag([size / width, size / height])
    return np.column_stack([linear, size / 2 - linear @ (width / 2, height / 2)])


def transition_crop(rng: np.random.Generator, alpha: Picture, size: int) -> NDArray[np.float64]:
    """A crop at the picture's own scale around a random pixel of the transition region, a little
    turned, perhaps flipped (section 3.4); around any pixel where alpha is hard everywhere."""
    inside = np.flatnonzero((alpha > 0) & (alpha < 255))
    pixel = inside[rng.integers(len(inside))] if len(inside) else rng.integers(alpha.size)
    row, column = divmod(int(pixel), alpha.shape[1])
    linear = _turn_and_flip(rng)
    return np.column_stack([linear, size / 2 - linear @ (column + 0.5, row + 0.5)])


def _turn_and_flip(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = np.deg2rad(rng.uniform(-15, 15))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(turn @ np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0]), np.float64)


CROPS = {"affine": random_affine, "whole": whole_picture, "transition": transition_crop}
"""Ways to choose what of a picture is seen: each makes a 2x3 matrix for ``warp``."""


def random_place(rng: np.random.Generator, picture: Picture, size: int) -> NDArray[np.float64]:
    """A 2x3 matrix that puts a thing somewhere into a size x size picture: from a seventh of its
    side to more than all of it, turned, perhaps flipped, its middle inside."""
    height, width = picture.shape[:2]
    scale = size * np.exp(rng.uniform(np.log(0.15), np.log(1.2))) / max(height, width)
    linear = scale * _turn_and_flip(rng)
    return np.column_stack([linear, rng.uniform(0, size, 2) - linear @ (width / 2, height / 2)])


def warp(
    picture: Picture,
    matrix: NDArray[np.float64],
    size: int,
    border: int = cv2.BORDER_REFLECT_101,
) -> Picture:
    """Applies a 2x3 matrix; beyond its edges the picture is mirrored, or as ``border`` says."""
    return np.asarray(
        cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border),
        np.uint8,
    )


def jitter_colours(rng: np.random.Generator, image: Picture) -> Picture:
    """Exposure, contrast, gamma, white balance and saturation, each a little off."""
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
    """What cameras and codecs do: soft focus, sensor noise, compression."""
    if rng.random() < 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.6)), np.uint8)
    if rng.random() < 0.4:
        noise = rng.normal(0, rng.uniform(1, 12), image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(25, 90))
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image


def simulate_previous(rng: np.random.Generator, alpha: Picture) -> Picture:
    """A copy of ``alpha`` as the frame before might have had it: moved, softened, imperfect."""
    size = alpha.shape[0]
    spread = rng.choice([0.01, 0.04])
    angle, scale = np.rad2deg(rng.normal(0, spread)), np.exp(rng.normal(0, spread))
    centre = (size / 2, size / 2)
    matrix = np.asarray(cv2.getRotationMatrix2D(centre, float(angle), float(scale)), np.float64)
    matrix[:, 2] += rng.normal(0, spread, 2) * size
    previous = warp(alpha, matrix, size)
    if rng.random() < 0.3:
        previous = np.asarray(cv2.blur(previous, (int(rng.integers(2, 7)),) * 2), np.uint8)
    if rng.random() < 0.3:
        kernel = np.ones((int(rng.integers(2, 8)),) * 2, np.uint8)
        grow = cv2.dilate if rng.random() < 0.5 else cv2.erode
        previous = np.asarray(grow(previous, kernel), np.uint8)
    # Parts lost, and things held that are not people: an error must not live on by feeding itself.
    for _ in range(rng.integers(0, 4) if rng.random() < 0.5 else 0):
        middle = rng.integers(0, size, 2)
        axes = rng.integers(size // 16, size // 3, 2)
        value = float(rng.choice([0, 255]))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(previous, (middle.tolist(), axes.tolist(), angle), value, -1)
    return previous
