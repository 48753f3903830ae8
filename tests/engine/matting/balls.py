"""Frames of a textured ball that flies before a wall, whose alpha is known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray
from tests.peers import Infer

from fusematte.engine.backends import Maps
from fusematte.engine.frame import Frame, Map
from fusematte.engine.pixels.color import frame_from_rgb

HEIGHT, WIDTH = 288, 512


def wall(seed: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).random((HEIGHT, WIDTH, 3), np.float32)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 5), None, 0, 255, 32), float)


def disc(x: float, y: float) -> Map:
    """The alpha of a ball, [HEIGHT, WIDTH]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    alpha = np.clip(60.5 - np.hypot(columns - x, rows - y), 0, 1)
    return np.asarray(alpha, np.float32)


def ball(index: int, step: float, *, seed: int = 1) -> tuple[Frame, Map]:
    """A frame of a textured ball that flies before a wall, and its alpha."""
    x, y = 120 + step * index, 120 + 0.5 * step * index
    alpha = disc(x, y)
    skin = cv2.warpAffine(
        wall(seed + 1).astype(np.float32), np.array([[1.0, 0, x], [0, 1, y]]), (WIDTH, HEIGHT),
        borderMode=cv2.BORDER_WRAP,
    )  # fmt: skip
    picture = alpha[..., None] * (128 + skin / 2) + (1 - alpha[..., None]) * wall(seed) / 2
    frame = frame_from_rgb(picture.astype(np.uint8))
    return replace(frame, pts=index), alpha


def everywhere(image: Map) -> Maps:
    """People all over a picture: whatever is looked at from afar is confirmed."""
    alpha = np.ones(image.shape[2:], np.float32)
    return Maps(alpha, alpha, 1 - alpha, alpha / 2)


def says(alphas: dict[bytes, Map], asked: list[bytes]) -> object:
    """A network that knows the truth, and notes what it was asked; what it does not know are looks
    from afar."""

    def network(_: Infer, image: Map, previous: Map) -> Maps:
        del previous
        if (alpha := alphas.get(image.tobytes())) is None:
            return everywhere(image)
        asked.append(image.tobytes())
        return Maps(alpha.copy(), alpha.copy(), 1 - alpha, np.full_like(alpha, 0.5))

    return network
