"""Random pictures in every layout, as hypothesis strategies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusematte import cpp_ext

Plane = NDArray[Any]

LAYOUTS = {
    "yuv420p": (1, 1, 8),
    "yuv422p": (1, 0, 8),
    "yuv444p": (0, 0, 8),
    "yuv420p10le": (1, 1, 10),
    "yuv422p10le": (1, 0, 10),
    "yuv444p10le": (0, 0, 10),
    "nv12": (1, 1, 8),
    "p010": (1, 1, 10),
}
MATRICES = ((0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593))


class Case(NamedTuple):
    """One job: a picture's layout and size, the low resolution and a seed for its content."""

    layout: str
    height: int
    width: int
    low_height: int
    low_width: int
    seed: int
    full_range: bool
    pad: int
    threads: int

    @property
    def levels(self) -> tuple[float, float, float, float]:
        bits = LAYOUTS[self.layout][2]
        scale, peak = 1 << (bits - 8), (1 << bits) - 1
        if self.full_range:
            return 0, peak, 128 * scale, peak
        return 16 * scale, 219 * scale, 128 * scale, 224 * scale

    def random(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def planes(self, random: np.random.Generator) -> list[Plane]:
        """Random planes whose rows lie ``pad`` samples apart; upside down if ``pad`` is odd."""
        x_shift, y_shift, bits = LAYOUTS[self.layout]
        chroma = -(-self.height >> y_shift), -(-self.width >> x_shift)
        shapes = [(self.height, self.width), chroma, chroma]
        if self.layout in ("nv12", "p010"):
            shapes = [(self.height, self.width), (chroma[0], 2 * chroma[1])]
        planes = [self.plane(random, shape, bits) for shape in shapes]
        if self.layout in ("nv12", "p010"):
            planes[1] = planes[1].reshape(*planes[1].shape[:-1], -1, 2)
        return planes

    def plane(self, random: np.random.Generator, shape: tuple[int, int], bits: int) -> Plane:
        memory = random.integers(0, 1 << bits, (shape[0], shape[1] + self.pad))
        memory = memory.astype(np.uint8 if bits == 8 else np.uint16)
        plane = memory << 6 if self.layout == "p010" else memory
        return plane[:: -1 if self.pad % 2 else 1, : shape[1]]

    def coefficients(
        self, random: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Slope and offset with areas of no, full and partial alpha."""
        shape = self.low_height, self.low_width
        slope = random.normal(0, 2, shape)
        offset = random.uniform(-2, 2, shape)
        flat = random.random(shape) < 0.7
        slope[flat], offset[flat] = 0, (random.random(shape) < 0.5)[flat]
        if self.seed % 2:  # one side certainly copied
            slope[:, : self.low_width // 2] = 0
            offset[:, : self.low_width // 2] = self.seed // 2 % 2
        return slope.astype(np.float32), offset.astype(np.float32)


def cases(side: int = 70, wide: int = 300) -> st.SearchStrategy[Case]:
    """Sizes from one pixel up, odd ones included; low resolutions smaller and larger."""
    return st.builds(
        Case,
        layout=st.sampled_from(sorted(LAYOUTS)),
        height=st.integers(1, side),
        width=st.integers(1, wide),
        low_height=st.integers(1, 40),
        low_width=st.integers(1, 90),
        seed=st.integers(0, 2**16),
        full_range=st.booleans(),
        pad=st.integers(0, 5),
        threads=st.integers(1, 8),
    )


def patchy_alpha(random: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Patches of about 0, of about 1, of both, and of anything between."""
    side = 6
    patches = random.integers(0, 4, (-(-height // side), -(-width // side)))
    kind = np.kron(patches, np.ones((side, side), int))[:height, :width]
    anything = random.random((height, width))
    near = anything * cpp_ext.SOLID
    return np.choose(kind, [near, 1 - near, np.round(anything), anything]).astype(np.float32)
