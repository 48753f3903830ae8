"""How the CUDA kernels make up a job: argument layouts, launches, launch sizes, scratch memory.

A ``Device`` launches a kernel of the module ``fatbin()`` by its name, as cuLaunchKernel does: the
engine's ``CudaDriver`` does so through PyCUDA; the tests also have one that runs the same source on
the CPU.  All addresses in the jobs are the device's.  The structures mirror csrc/kernels.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import (
    Structure,
    c_bool,
    c_double,
    c_float,
    c_int,
    c_ssize_t,
    c_void_p,
    sizeof,
)
from pathlib import Path
from typing import Any, NamedTuple, Protocol

BLOCK = 32, 4
STRIP = 32
"""Threads of a block, and pixels that one thread of a box mean walks (kernels.cu: kStrip)."""


Shape = tuple[int, int, int]


class Device(Protocol):
    """What runs kernels, in the order of the calls."""

    def launch(
        self, kernel: str, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Any]
    ) -> None:
        """Runs a kernel; the arguments are ctypes values, passed by value."""

    def scratch(self, size: int) -> int:
        """The address of ``size`` bytes that stay valid until the launches so far have run."""


class Layout(Structure):
    """How a picture lies in memory; ``low_bits``: 6 for P010, else 0."""

    _fields_ = [
        ("height", c_int),
        ("width", c_int),
        ("chroma_height", c_int),
        ("chroma_width", c_int),
        ("bits", c_int),
        ("low_bits", c_int),
        ("interleaved", c_bool),
    ]


class Planes(Structure):
    """Y, U, V, or Y and UV: the address of each first row, and the bytes from row to row."""

    _fields_ = [("data", c_void_p * 3), ("stride", c_ssize_t * 3)]


class Levels(Structure):
    """Black, luma span, neutral chroma, chroma span, in code values."""

    _fields_ = [(name, c_float) for name in ("black", "luma_span", "neutral", "chroma_span")]


class Matrix(Structure):
    """The luma weights of red and blue."""

    _fields_ = [("red", c_float), ("blue", c_float)]


class Grid(Structure):
    """A small float picture [channels, height, width] that is interpolated; or a null address."""

    _fields_ = [("data", c_void_p), ("height", c_int), ("width", c_int)]


class ResizeJob(Structure):
    """``rgb`` and ``ycbcr``: [3, height, width] floats to write."""

    _fields_ = [
        ("layout", Layout),
        ("source", Planes),
        ("levels", Levels),
        ("matrix", Matrix),
        ("height", c_int),
        ("width", c_int),
        ("rgb", c_void_p),
        ("ycbcr", c_void_p),
    ]


class GuidedJob(Structure):
    """``guide``, ``alpha``, ``slope``, ``offset``: [height, width]."""

    _fields_ = [
        ("height", c_int),
        ("width", c_int),
        ("radius", c_int),
        ("epsilon", c_double),
        ("guide", c_void_p),
        ("alpha", c_void_p),
        ("slope", c_void_p),
        ("offset", c_void_p),
    ]


class GuidedAlphaJob(Structure):
    """``guide``: [3, height, width]; ``alpha``, ``out``: [height, width]; sides are even."""

    _fields_ = [
        ("height", c_int),
        ("width", c_int),
        ("radius", c_int),
        ("certain", c_float),
        ("epsilon", c_double),
        ("guide", c_void_p),
        ("alpha", c_void_p),
        ("out", c_void_p),
    ]


class ForegroundJob(Structure):
    """Colours [3, height, width], ``alpha`` [height, width]; the device leaves ``radii`` alone."""

    _fields_ = [
        ("height", c_int),
        ("width", c_int),
        ("radii", c_void_p),
        ("passes", c_int),
        ("lower", c_float * 3),
        ("upper", c_float * 3),
        ("color", c_void_p),
        ("alpha", c_void_p),
        ("foreground", c_void_p),
        ("background", c_void_p),
    ]


class BlurJob(NamedTuple):
    """``color``: [3, height, width], Y'CbCr; ``alpha``: [height, width]; ``behind``: [3, ...].

    taps: the address of the 2 * radius + 1 weights of a Gaussian.
    """

    height: int
    width: int
    radius: int
    taps: int
    color: int
    alpha: int
    behind: int
    levels: Levels


class WrapJob(NamedTuple):
    """``light``, ``foreground``, ``lit``: [3, height, width], Y'CbCr; ``alpha``: [height, width].

    taps: the address of the 2 * radius + 1 weights of a Gaussian.
    """

    height: int
    width: int
    radius: int
    taps: int
    strength: float
    light: int
    alpha: int
    foreground: int
    lit: int


class CompositeJob(Structure):
    """``background`` where it has addresses, else ``small_background``, else none; ``alpha`` and
    ``shift`` may be null."""

    _fields_ = [
        ("layout", Layout),
        ("frame", Planes),
        ("background", Planes),
        ("small_background", Grid),
        ("out", Planes),
        ("alpha", c_void_p),
        ("alpha_stride", c_ssize_t),
        ("levels", Levels),
        ("slope", Grid),
        ("offset", Grid),
        ("shift", Grid),
        ("keep_solid", c_bool),
    ]


def fatbin() -> Path | None:
    """The module to load, or None: see ``why_no_kernels``."""
    path = Path(__file__).with_name("kernels.fatbin")
    return path if path.exists() else None


def why_no_kernels() -> str | None:
    """Why there is no module, and what builds it; or None."""
    if fatbin() is not None:
        return None
    return "the CUDA kernels are not built: install from source with FUSEMATTE_CUDA=1"


def resize_to_tensor(device: Device, job: ResizeJob) -> None:
    """See ``fusematte.cpp_ext.resize_to_tensor``."""
    kernel = f"resize_to_tensor_{job.layout.bits}"
    device.launch(kernel, _blocks(job.width, job.height), BLOCK, [job])


def guided_coefficients(device: Device, job: GuidedJob) -> None:
    """See ``fusematte.cpp_ext.guided_coefficients``."""
    columns, rows = _box_blocks(job.height, job.width)
    area = job.height * job.width
    sums = c_void_p(device.scratch(sizeof(c_double) * 4 * area))
    solved = c_void_p(device.scratch(sizeof(c_float) * area))
    device.launch("guided_columns", columns, BLOCK, [job, sums])
    device.launch("guided_solve", rows, BLOCK, [job, sums, solved])
    device.launch("guided_mean_columns", columns, BLOCK, [job, solved, sums])
    device.launch("guided_mean", rows, BLOCK, [job, sums])


def guided_alpha(device: Device, job: GuidedAlphaJob) -> None:
    """See ``fusematte.cpp_ext.guided_alpha``."""
    height, width = job.height // 2, job.width // 2
    columns, rows = _box_blocks(height, width)
    sums = c_void_p(device.scratch(sizeof(c_double) * 13 * height * width))
    solved, averaged = (
        c_void_p(device.scratch(sizeof(c_float) * 4 * height * width)) for _ in range(2)
    )
    device.launch("guided_alpha_columns", columns, BLOCK, [job, sums])
    device.launch("guided_alpha_solve", rows, BLOCK, [job, sums, solved])
    device.launch("guided_alpha_mean_columns", columns, BLOCK, [job, solved, sums])
    device.launch("guided_alpha_mean", rows, BLOCK, [job, sums, averaged])
    whole = _blocks(job.width, job.height)
    device.launch("guided_alpha_apply", whole, BLOCK, [job, averaged])


def estimate_foreground(device: Device, job: ForegroundJob, radii: Sequence[int]) -> None:
    """See ``fusematte.cpp_ext.estimate_foreground``."""
    columns, rows = _box_blocks(job.height, job.width)
    sums = c_void_p(device.scratch(sizeof(c_double) * 7 * job.height * job.width))
    known = c_void_p(job.color), c_void_p(job.color)
    for radius in radii:
        device.launch("foreground_columns", columns, BLOCK, [job, c_int(radius), *known, sums])
        device.launch("foreground_solve", rows, BLOCK, [job, c_int(radius), sums])
        known = c_void_p(job.foreground), c_void_p(job.background)


def composite(device: Device, job: CompositeJob) -> None:
    """See ``fusematte.cpp_ext.composite``."""
    kernel = f"composite_{job.layout.bits}"
    size = _blocks(job.layout.chroma_width, job.layout.chroma_height)
    device.launch(kernel, size, BLOCK, [job])


def shrink(device: Device, source: int, shape: Shape, target: int, size: tuple[int, int]) -> None:
    """The area means of float pictures ``shape`` = (channels, height, width) at ``size``."""
    arguments = [c_void_p(source), *map(c_int, shape), c_void_p(target), *map(c_int, size)]
    device.launch("shrink", _blocks(size[1], size[0]), BLOCK, arguments)


def color_shift(
    device: Device, people: int, color: int, levels: Levels, shift: int, size: tuple[int, int]
) -> None:
    """The person's colours less the frame's in code values, [3, *size] each."""
    arguments = [c_void_p(people), c_void_p(color), levels, c_void_p(shift), *map(c_int, size)]
    device.launch("color_shift", _blocks(size[1], size[0]), BLOCK, arguments)


def blur_background(device: Device, job: BlurJob) -> None:
    """A picture out of focus, into which what alpha covers does not bleed, in code values."""
    _gaussian(device, "blur", job, job.color, [job.levels, c_void_p(job.behind)])


def _gaussian(
    device: Device, kernels: str, job: BlurJob | WrapJob, source: int, results: list[Any]
) -> None:
    """Gaussian means of ``source`` and of what alpha leaves, along the rows, then the columns."""
    blocks, size = _blocks(job.width, job.height), (c_int(job.height), c_int(job.width))
    sums = c_void_p(device.scratch(sizeof(c_float) * 4 * job.height * job.width))
    taps = c_void_p(job.taps), c_int(job.radius)
    sources = c_void_p(source), c_void_p(job.alpha)
    device.launch(f"{kernels}_rows", blocks, BLOCK, [*sources, *taps, sums, *size])
    device.launch(f"{kernels}_columns", blocks, BLOCK, [sums, *taps, *results, *size])


def grid_light(
    device: Device, background: Grid, levels: Levels, light: int, size: tuple[int, int]
) -> None:
    """A background that is a grid of code values as a picture [3, *size], Y'CbCr."""
    arguments = [background, levels, c_void_p(light), *map(c_int, size)]
    device.launch("grid_light", _blocks(size[1], size[0]), BLOCK, arguments)


def light_wrap(device: Device, job: WrapJob) -> None:
    """The person's colours with the new background's light on their edges."""
    colors = c_void_p(job.foreground), c_void_p(job.lit)
    _gaussian(device, "wrap", job, job.light, [c_float(job.strength), *colors])


def despill(device: Device, job: ForegroundJob, strength: float, full: float) -> None:
    """Takes the old background's hue out of the person's colours that ``job`` estimated.

    full: the old background's saturation from which on all of ``strength`` counts.
    """
    size, width = (c_int(job.height), c_int(job.width)), c_int(job.width)
    sums = c_void_p(device.scratch(sizeof(c_double) * 3 * job.width))
    tint = c_void_p(device.scratch(sizeof(c_float) * 3))
    columns, old = _blocks(job.width, 1), (c_void_p(job.background), c_void_p(job.alpha))
    device.launch("tint_columns", columns, BLOCK, [*old, sums, *size])
    device.launch("tint_mean", (1, 1), BLOCK, [sums, width, c_float(full), tint])
    arguments = [c_void_p(job.foreground), tint, c_float(strength), *size]
    device.launch("despill", _blocks(job.width, job.height), BLOCK, arguments)


def apply_curve(device: Device, values: int, shape: Shape, table: int, entries: int) -> None:
    """Replaces float pictures in 0..1 by a curve of them, a table over 0..1 with ``entries``."""
    rows = shape[0] * shape[1]
    arguments = [c_void_p(values), c_void_p(table), *map(c_int, (entries, rows, shape[2]))]
    device.launch("apply_curve", _blocks(shape[2], rows), BLOCK, arguments)


def turn(device: Device, source: int, shape: Shape, target: int, quarters: int) -> None:
    """Turns float pictures ``shape`` = (channels, height, width), as ``np.rot90`` does; quarters: 1
    to 3."""
    arguments = [c_void_p(source), *map(c_int, shape), c_void_p(target), c_int(quarters)]
    device.launch("turn", _blocks(shape[2], shape[1]), BLOCK, arguments)


def _blocks(across: int, down: int) -> tuple[int, int]:
    """The grid of blocks with a thread for each of across x down."""
    return -(-across // BLOCK[0]), -(-down // BLOCK[1])


def _box_blocks(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grids for the sums down the columns and along the rows, one thread a strip."""
    return _blocks(width, -(-height // STRIP)), _blocks(height, -(-width // STRIP))
