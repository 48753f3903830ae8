"""The compiled kernels.  They check nothing: call fusematte.cpp_ext instead."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Planes = Sequence[NDArray[Any]]
Levels = tuple[float, float, float, float]

def instruction_sets() -> list[str]: ...
def use_instruction_set(name: str) -> None: ...
def all_finite(array: Floats) -> bool: ...
def resize_to_tensor(
    planes: Planes,
    matrix: tuple[float, float],
    levels: Levels,
    rgb: Floats | None,
    ycbcr: Floats,
    threads: int,
) -> None: ...
def guided_coefficients(
    guide: Floats,
    alpha: Floats,
    radius: int,
    epsilon: float,
    slope: Floats,
    offset: Floats,
    threads: int,
) -> None: ...
def guided_alpha(
    guide: Floats,
    alpha: Floats,
    radius: int,
    epsilon: float,
    certain: float,
    out: Floats,
    threads: int,
) -> None: ...
def estimate_foreground(
    color: Floats,
    alpha: Floats,
    radii: Sequence[int],
    lower: Sequence[float],
    upper: Sequence[float],
    foreground: Floats,
    background: Floats,
    threads: int,
) -> None: ...
def composite(
    planes: Planes,
    background: Planes,
    small_background: Floats | None,
    slope: Floats,
    offset: Floats,
    shift: Floats | None,
    keep_solid: bool,
    levels: Levels,
    out: Planes,
    alpha: NDArray[Any] | None,
    threads: int,
) -> None: ...
def move(planes: Floats, flow: Floats, out: Floats, threads: int) -> None: ...
def blend_moved(
    luma: Floats,
    first: Floats,
    second: Floats,
    radius: int,
    noise: float,
    unfit: float,
    out: Sequence[Floats | None],
    threads: int,
) -> None: ...
