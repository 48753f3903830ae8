"""Made-up mattes, and real ones, for the tests of what goes on between frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Frame, Matte
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.smoothing import Lookahead, Smoother

HEIGHT, WIDTH = 36, 64


def turned(frame: Frame, rotation: int) -> Frame:
    """The frame as a camera stores it that a player must turn clockwise by ``rotation``."""
    y, u, v = (np.ascontiguousarray(np.rot90(p, rotation // 90)) for p in frame.planes)
    return replace(frame, planes=(y, u, v), rotation=rotation)


def scene(seed: int) -> NDArray[np.float32]:
    coarse = np.random.default_rng(seed).random((6, 8), np.float32)
    return coarse.repeat(6, 0).repeat(8, 1)


def matte(alpha: float, *, doubt: float, luma: NDArray[np.float32] | None = None) -> Matte:
    plane = np.full((HEIGHT, WIDTH), alpha, np.float32)
    picture = np.full((HEIGHT, WIDTH), 0.5, np.float32) if luma is None else luma
    return Matte(
        alpha=plane,
        foreground=np.full_like(plane, 0.5 + doubt / 2),
        background=np.full_like(plane, 0.5 + doubt / 2),
        beta=plane,
        color=np.stack([picture] * 3),
        pts=0,
        time_base=Fraction(1),
    )


def run(smoother: Smoother | Lookahead, mattes: list[Matte]) -> list[NDArray[np.float32]]:
    done = [smoother(matte, follows=index > 0) for index, matte in enumerate(mattes)]
    return [matte.alpha for matte in done if matte is not None]


def real_mattes(matter: Matter, frames: Iterable[Frame]) -> list[tuple[Matte, bool]]:
    return [(matter(frame), matter.follows) for frame in frames]


def cropped(frame: Frame, left: int, width: int) -> Frame:
    y, u, v = frame.planes
    half = np.s_[:, left // 2 : (left + width) // 2]
    return frame.with_planes((y[:, left : left + width], u[half], v[half]))
