"""The native kernels of FuseMatte: the pixel work around the network, on the CPU.

Pictures are YUV planes in code values, as decoders deliver them: three planes (Y, U, V) with
chroma 4:2:0, 4:2:2 or 4:4:4, or two (Y and UV of shape [rows, columns, 2]) for NV12 and P010.
uint8 samples are 8 bits; uint16 samples are 10 bits, in the low bits of three planes and in the
high bits of two.  Rows may lie any number of bytes apart; samples within a row may not.

``levels`` are (black, luma span, neutral chroma, chroma span) in code values (10-bit ones for
P010), ``matrix`` is (kr, kb), the luma weights of red and blue.

Every function releases the GIL, divides its work among ``threads`` threads, which end with the
call, and raises TypeError or ValueError with the argument's name before it reads a sample.
NaN and infinity are refused where they would become numbers or an address; elsewhere they stay what
they are, and ``composite`` refuses them in the end.  ``reference`` has each kernel in plain NumPy.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusematte.cpp_ext import _C

Floats = NDArray[np.float32]
Plane = NDArray[Any]
Levels = tuple[float, float, float, float]
Matrix = tuple[float, float]

__all__ = [
    "SOLID",
    "Foreground",
    "Guided",
    "Moved",
    "Resized",
    "blend_moved",
    "composite",
    "estimate_foreground",
    "guided_alpha",
    "guided_coefficients",
    "instruction_sets",
    "move",
    "resize_to_tensor",
    "resize_to_ycbcr",
    "use_instruction_set",
]

SOLID = 1 / 512
"""An alpha this near to 0 or 1 is solid: 8 bits round it to that."""
MAX_SIDE = 1 << 15
MAX_THREADS = 64


class Resized(NamedTuple):
    """``rgb`` [3, h, w] in 0..1 and the ``ycbcr`` [3, h, w] (0..1, -0.5..0.5) it comes from."""

    rgb: Floats
    ycbcr: Floats


class Guided(NamedTuple):
    """alpha = slope * guide + offset: ``slope`` of the guide's shape, ``offset`` [h, w]."""

    slope: Floats
    offset: Floats


class Foreground(NamedTuple):
    """The two colours that were mixed in each pixel, both [3, h, w]."""

    foreground: Floats
    background: Floats


class Moved(NamedTuple):
    """A matte made of two that were moved to one frame; planes [h, w].

    foreground, background, beta: None where only the alphas were given.
    beta: that for which alpha = beta * foreground + (1 - beta) * (1 - background), clipped to 0..1;
        1/2 where any does.
    conflict: the difference of the two alphas where they differ and neither's picture fits the
        frame, else 0.
    """

    alpha: Floats
    foreground: Floats | None
    background: Floats | None
    beta: Floats | None
    conflict: Floats


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that this processor runs, slowest first.  The last one is in use."""
    return tuple(_C.instruction_sets())


def use_instruction_set(name: str) -> None:
    """Makes every later call, in all threads, run the code compiled for ``name``.

    Raises:
        ValueError: ``name`` is not among ``instruction_sets()``.
    """
    _C.use_instruction_set(name)


def resize_to_tensor(
    planes: Sequence[Plane],
    height: int,
    width: int,
    *,
    matrix: Matrix,
    levels: Levels,
    rgb: Floats | None = None,
    ycbcr: Floats | None = None,
    threads: int = 1,
) -> Resized:
    """A picture as a small RGB tensor, each pixel the exact mean of the area it covers.

    Each plane is averaged over the target pixel's box (a box narrower than a sample takes that
    sample's value), Y'CbCr becomes R'G'B' and is clipped to 0..1.  ``ycbcr`` is not clipped:
    code values outside the nominal range lie outside, as they do for ``composite``.

    Args:
        planes: the picture; see the module.
        height, width: of the result, at least 1.
        rgb, ycbcr: arrays to write the result to, [3, height, width], float32, C-contiguous.

    Source: ITU-T H.273, clause 8.3, for the matrix.
    """
    _check_planes("planes", planes)
    _check_side("height", height)
    _check_side("width", width)
    shape = (3, height, width)
    rgb, ycbcr = _target("rgb", rgb, shape), _target("ycbcr", ycbcr, shape)
    if np.may_share_memory(rgb, ycbcr):
        raise ValueError("ycbcr: overlaps rgb")
    _C.resize_to_tensor(
        list(planes), _matrix(matrix), _levels(levels), rgb, ycbcr, _threads(threads)
    )
    return Resized(rgb, ycbcr)


def resize_to_ycbcr(
    planes: Sequence[Plane], height: int, width: int, *, levels: Levels, threads: int = 1
) -> Floats:
    """The Y'CbCr of ``resize_to_tensor`` alone: [3, height, width]."""
    _check_planes("planes", planes)
    _check_side("height", height)
    _check_side("width", width)
    ycbcr = np.empty((3, height, width), np.float32)
    _C.resize_to_tensor(list(planes), (0.0, 0.0), _levels(levels), None, ycbcr, _threads(threads))
    return ycbcr


def guided_coefficients(
    guide: Floats, alpha: Floats, radius: int, epsilon: float, *, threads: int = 1
) -> Guided:
    """The guided filter's linear model of alpha in the guide, averaged over the window.

    Computed at low resolution and upsampled, it is the fast guided filter; ``composite`` applies
    it.  The offset keeps alpha as it is at its own resolution, where the averaged one would blur
    it by the window.  Windows that are solid have slope 0.  The cost does not depend on the
    radius.  Windows are clipped at the border.

    Args:
        guide, alpha: [h, w], float32.
        radius: of the (2 radius + 1)^2 window, 1 to the shorter side.
        epsilon: how much variance of the guide counts as flat, above 0; guides in 0..1 want
            about 1e-4.

    Source: He, Sun, Tang, "Guided Image Filtering", TPAMI 2013, equations 5 and 8;
    He, Sun, "Fast Guided Filter", 2015.
    """
    alpha = _floats("alpha", alpha, PLANE)
    guide = _floats("guide", guide, PLANE)
    _check_match("guide", guide, alpha)
    _check_radius("radius", radius, alpha)
    _check_positive("epsilon", epsilon)
    slope, offset = np.empty_like(guide), np.empty_like(alpha)
    _C.guided_coefficients(guide, alpha, radius, epsilon, slope, offset, _threads(threads))
    return Guided(slope, offset)


def guided_alpha(
    guide: Floats,
    alpha: Floats,
    radius: int,
    epsilon: float,
    *,
    certain: float,
    threads: int = 1,
) -> Floats:
    """Alpha after the guided filter with a guide of three channels: [h, w], 0..1.

    It is drawn to the edges of the guide, whatever channel shows them.  The model is computed at
    half resolution.

    Args:
        guide: [3, h, w], float32; alpha: [h, w], float32; h and w are even.
        radius: of the window at half resolution, 1 to the shorter side there.
        epsilon: as for ``guided_coefficients``.
        certain: an alpha that is nearer to 0 or 1 than this keeps more of its value, and all of
            it where it is solid; above ``SOLID``, up to 1.

    Source: He, Sun, Tang, "Guided Image Filtering", TPAMI 2013, equations 14 to 16;
    He, Sun, "Fast Guided Filter", 2015.
    """
    alpha = _floats("alpha", alpha, PLANE)
    if any(side % 2 for side in alpha.shape):
        raise ValueError(f"alpha: has an odd side, {alpha.shape}")
    guide = _finite("guide", guide, PICTURE)
    _check_match("guide", guide, alpha)
    _check_radius("radius", radius, alpha[::2, ::2])
    _check_positive("epsilon", epsilon)
    if not (_is_real(certain) and SOLID < certain <= 1):
        raise ValueError(f"certain: {certain!r} is not above 1/512 and up to 1")
    out = np.empty_like(alpha)
    _C.guided_alpha(guide, alpha, radius, epsilon, certain, out, _threads(threads))
    return out


def _check_positive(name: str, value: float) -> None:
    if not (_is_real(value) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: {value!r} is not a number above 0")


def estimate_foreground(
    color: Floats,
    alpha: Floats,
    radii: Sequence[int],
    *,
    bounds: Sequence[tuple[float, float]] = ((0.0, 1.0),) * 3,
    threads: int = 1,
) -> Foreground:
    """The colours of foreground and background in mixed pixels, by blur fusion.

    Args:
        color: [3, h, w], float32; any colour space in which light mixes linearly enough: R'G'B'
            and Y'CbCr give the same result.
        alpha: [h, w], float32, 0..1.
        radii: of one fusion after the other, each 1 to the shorter side; the paper's pair is a
            wide one and a narrow one, about 15 to 1.
        bounds: the least and greatest value of each channel; (-0.5, 0.5) for Cb and Cr.

    Source: Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021; windows are clipped
    at the border here.
    """
    alpha = _finite("alpha", alpha, PLANE)
    if alpha.min() < 0 or alpha.max() > 1:
        raise ValueError("alpha: has values outside 0..1")
    color = _finite("color", color, PICTURE)
    _check_match("color", color, alpha)
    _check_sequence("radii", radii)
    if not len(radii):
        raise ValueError("radii: is empty")
    for radius in radii:
        _check_radius("radii", radius, alpha)
    _check_sequence("bounds", bounds)
    pairs = [_reals("bounds", pair, 2) for pair in bounds]
    if len(pairs) != 3 or any(low >= high for low, high in pairs):
        raise ValueError(f"bounds: {bounds!r} is not three (least, greatest) pairs")
    lower, upper = zip(*pairs, strict=True)
    foreground, background = np.empty_like(color), np.empty_like(color)
    _C.estimate_foreground(
        color, alpha, list(radii), lower, upper, foreground, background, _threads(threads)
    )
    return Foreground(foreground, background)


def composite(
    planes: Sequence[Plane],
    slope: Floats,
    offset: Floats,
    background: Sequence[Plane] | tuple[int, int, int] | Floats | None,
    *,
    levels: Levels,
    shift: Floats | None = None,
    keep_solid: bool = False,
    out: Sequence[Plane] | None = None,
    alpha: Plane | None = None,
    threads: int = 1,
) -> list[Plane]:
    """The person in a frame over another background, in one pass over the frame's own planes.

    alpha = slope * luma + offset, clipped to 0..1, with the coefficients interpolated
    bilinearly (half-pixel centres, clamped at the edges) and luma = (Y - black) / luma span;
    chroma samples take the mean alpha of the luma samples they cover.  Every sample becomes
    background + alpha * (foreground - background), rounded half up, where foreground is
    sample + shift, clipped to the code values.

    With ``keep_solid`` samples under full alpha keep their own value: alpha that rounds to the
    peak counts as 1, and shift fades out over the last 1/32 before it.

    Args:
        planes: the frame; see the module.
        slope, offset: [h, w], float32, of any size, by ``guided_coefficients``.
        background: planes of the frame's format; or one (Y, U, V) in code values; or a small
            [3, h, w] float32 picture in code values, interpolated like the coefficients: what is
            blurred needs no more; or None: the samples become the foreground itself, unmixed.
        shift: [3, h, w] of any size, float32, in code values: the foreground's estimated colour
            less the frame's.
        out: planes of the frame's format to write to; they may not overlap frame or background.
        alpha: [height, width] of the frame's dtype, to write alpha to: 0..255, or 0..1023 in the
            low bits.

    Returns:
        ``out``, or newly allocated planes.
    """
    _check_planes("planes", planes)
    slope, offset = _finite("slope", slope, PLANE), _finite("offset", offset, PLANE)
    if slope.shape != offset.shape:
        raise ValueError(f"offset: {offset.shape} is not slope's shape {slope.shape}")
    if shift is not None:
        shift = _finite("shift", shift, PICTURE)
    if not isinstance(keep_solid, bool):
        raise TypeError(f"keep_solid: {keep_solid!r} is not a bool")
    small, behind = None, []
    if isinstance(background, np.ndarray):
        small = _finite("background", background, PICTURE)
    elif background is not None:
        behind = _background(background, planes)
    written = _targets(planes, behind, out, alpha)
    _C.composite(
        list(planes), behind, small, slope, offset, shift, keep_solid, _levels(levels), written,
        alpha, _threads(threads),
    )  # fmt: skip
    return written


def move(planes: Floats, flow: Floats, *, threads: int = 1) -> Floats:
    """A picture moved along an optical flow: each pixel from where the flow says it was.

    The flow is interpolated bilinearly to the picture's size, and so is the picture between its
    pixels.  Beyond its edge its outermost pixels repeat.

    Args:
        planes: [h, w], or two or four beside each other, [h, w, 2] or [h, w, 4], float32.
        flow: [rows, columns, 2], float32: how far to the right and down, in pixels of the flow.

    Returns:
        [h, w], or [2, h, w] or [4, h, w].
    """
    planes = _floats("planes", planes, PLANE, PAIRS, QUADS)
    flow = _finite("flow", flow, PAIRS)
    out = np.empty((*planes.shape[2:], *planes.shape[:2]), np.float32)
    _C.move(planes, flow, out, _threads(threads))
    return out


def blend_moved(
    luma: Floats,
    first: Floats,
    second: Floats,
    *,
    radius: int,
    noise: float,
    unfit: float,
    threads: int = 1,
) -> Moved:
    """The matte of a frame, of two that were moved to it from other frames.

    How much a moved picture misfits is the mean difference of its luma from the frame's in a
    window.  Each pixel trusts the one that fits better: its weight is the other's misfit + noise.
    Where no map differs by more than ``SOLID``, they are averaged.

    Args:
        luma: of the frame, [h, w], float32.
        first, second: alpha and luma, [2, h, w], or alpha, F, B and luma, [4, h, w], moved,
            float32; they may be the same.
        radius: of the (2 radius + 1)^2 window, clipped at the border; 1 to the shorter side.
        noise: a misfit that says nothing, above 0.
        unfit: a picture fits up to this misfit.
    """
    luma = _floats("luma", luma, PLANE)
    first = _floats("first", first, TWO_PLANES, FOUR_PLANES)
    second = _floats("second", second, TWO_PLANES if len(first) == 2 else FOUR_PLANES)
    _check_match("first", first, luma)
    _check_match("second", second, luma)
    _check_radius("radius", radius, luma)
    _check_positive("noise", noise)
    _check_positive("unfit", unfit)
    alpha, conflict = np.empty_like(luma), np.empty_like(luma)
    out = Moved(alpha, None, None, None, conflict)
    if len(first) == 4:
        foreground, background, beta = (np.empty_like(luma) for _ in range(3))
        out = Moved(alpha, foreground, background, beta, conflict)
    _C.blend_moved(luma, first, second, radius, noise, unfit, out, _threads(threads))
    return out


def _targets(
    planes: Sequence[Plane],
    behind: Sequence[Plane],
    out: Sequence[Plane] | None,
    alpha: Plane | None,
) -> list[Plane]:
    """The planes to write to, once they and ``alpha`` are known to fit and to overlap nothing."""
    if out is not None:
        _check_sequence("out", out)
    written = [np.empty(plane.shape, plane.dtype) for plane in planes] if out is None else list(out)
    _check_like("out", written, planes)
    targets = [("out", plane) for plane in written]
    if alpha is not None:
        _check_plane("alpha", alpha, planes[0].dtype, planes[0].shape)
        targets.append(("alpha", alpha))
    for name, target in targets:
        _check_writable(name, target, [*planes, *behind])
    return written


# A frame brings dozens of values to check: the usual types are asked before the abstract ones,
# which take ten times as long.


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float, numbers.Real)) and not isinstance(value, bool)


def _check_sequence(name: str, value: object) -> None:
    if not isinstance(value, (list, tuple, np.ndarray, Sequence)):
        raise TypeError(f"{name}: {_kind(value)} is not a sequence")


def _reals(name: str, values: Sequence[float], count: int) -> tuple[float, ...]:
    _check_sequence(name, values)
    if len(values) != count or not all(_is_real(v) and math.isfinite(v) for v in values):
        raise ValueError(f"{name}: {values!r} is not {count} finite numbers")
    return tuple(float(value) for value in values)


def _matrix(matrix: Matrix) -> Matrix:
    red, blue = _reals("matrix", matrix, 2)
    if not (0 < red < 1 and 0 < blue < 1 and red + blue < 1):
        raise ValueError(f"matrix: {matrix!r} is not (kr, kb) with green's weight left over")
    return red, blue


def _levels(levels: Levels) -> Levels:
    black, luma_span, neutral, chroma_span = _reals("levels", levels, 4)
    if luma_span <= 0 or chroma_span <= 0:
        raise ValueError(f"levels: the spans in {levels!r} are not above 0")
    return black, luma_span, neutral, chroma_span


def _threads(threads: int) -> int:
    _check_integer("threads", threads, MAX_THREADS)
    return threads


def _check_integer(name: str, value: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, numbers.Integral)):
        raise TypeError(f"{name}: {value!r} is not an integer")
    if not 1 <= value <= most:
        raise ValueError(f"{name}: {value} is not in 1..{most}")


def _check_side(name: str, value: int) -> None:
    _check_integer(name, value, MAX_SIDE)


def _check_sides(name: str, shape: tuple[int, ...]) -> None:
    if not 1 <= min(shape) <= max(shape) <= MAX_SIDE:
        raise ValueError(f"{name}: shape {shape} has a side that is not in 1..{MAX_SIDE}")


def _check_radius(name: str, radius: int, alpha: Floats) -> None:
    _check_integer(name, radius, min(alpha.shape))


Shape = tuple[int | str, ...]
"""Of an array; names stand for any side."""
PLANE: Shape = ("h", "w")
PICTURE: Shape = (3, "h", "w")
TWO_PLANES: Shape = (2, "h", "w")
FOUR_PLANES: Shape = (4, "h", "w")
PAIRS: Shape = ("h", "w", 2)
QUADS: Shape = ("h", "w", 4)


def _floats(name: str, array: Floats, *shapes: Shape) -> Floats:
    """The array, C-contiguous, after checking its type and dimensions."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        raise TypeError(f"{name}: {_kind(array)} is not a float32 array")
    shape = next((one for one in shapes if _matches(array, one)), None)
    if shape is None:
        wanted = " or ".join(f"[{', '.join(map(str, one))}]" for one in shapes)
        raise ValueError(f"{name}: shape {array.shape} is not {wanted}")
    _check_sides(name, array.shape)
    return np.ascontiguousarray(array)


def _finite(name: str, array: Floats, *shapes: Shape) -> Floats:
    """The same, after checking its values as well."""
    packed = _floats(name, array, *shapes)
    if not _C.all_finite(packed):
        raise ValueError(f"{name}: has NaN or infinite values")
    return packed


def _matches(array: Floats, shape: Shape) -> bool:
    return array.ndim == len(shape) and all(
        isinstance(wanted, str) or side == wanted
        for side, wanted in zip(array.shape, shape, strict=True)
    )


def _kind(value: object) -> str:
    return f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__


def _check_match(name: str, array: Floats, alpha: Floats) -> None:
    if array.shape[-2:] != alpha.shape:
        raise ValueError(f"{name}: {array.shape} does not match {alpha.shape}")


def _target(name: str, array: Floats | None, shape: tuple[int, ...]) -> Floats:
    """The caller's array, checked, or a new one."""
    if array is None:
        return np.empty(shape, np.float32)
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        raise TypeError(f"{name}: {_kind(array)} is not a float32 array")
    if array.shape != shape or not array.flags.carray:
        raise ValueError(f"{name}: is not a writable C-contiguous array of shape {shape}")
    return array


def _check_plane(name: str, plane: Plane, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if not isinstance(plane, np.ndarray) or plane.dtype != dtype:
        raise TypeError(f"{name}: {_kind(plane)} is not a {dtype} array")
    if plane.shape != shape:
        raise ValueError(f"{name}: shape {plane.shape} is not {shape}")
    packed = plane[:1, :].flags.c_contiguous and plane.flags.aligned
    if not packed:
        raise ValueError(f"{name}: the samples of a row are not adjacent")


def _check_planes(name: str, planes: Sequence[Plane]) -> None:
    _check_sequence(name, planes)
    if isinstance(planes, np.ndarray) or len(planes) not in (2, 3):
        raise ValueError(f"{name}: is not 3 planes, or 2 for NV12 and P010")
    luma = planes[0]
    if not isinstance(luma, np.ndarray) or luma.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"{name}: {_kind(luma)} is not a uint8 or uint16 array")
    if luma.ndim != 2:
        raise ValueError(f"{name}: luma's shape {luma.shape} is not [height, width]")
    _check_sides(name, luma.shape)
    for plane, shape in zip(planes, (luma.shape, *_chroma_shapes(name, planes)), strict=True):
        _check_plane(name, plane, luma.dtype, shape)


def _chroma_shapes(name: str, planes: Sequence[Plane]) -> list[tuple[int, ...]]:
    """The shapes the planes after the first must have, going by the second one's."""
    height, width = planes[0].shape
    half_height, half_width = -(-height // 2), -(-width // 2)
    if len(planes) == 2:
        return [(half_height, half_width, 2)]
    shape = np.shape(planes[1])
    if shape not in ((half_height, half_width), (height, half_width), (height, width)):
        raise ValueError(f"{name}: chroma {shape} is not 4:2:0, 4:2:2 or 4:4:4 of {height, width}")
    return [shape, shape]


def _check_like(name: str, planes: Sequence[Plane], model: Sequence[Plane]) -> None:
    if len(planes) != len(model):
        raise ValueError(f"{name}: {len(planes)} planes are not {len(model)}")
    for plane, like in zip(planes, model, strict=True):
        _check_plane(name, plane, like.dtype, like.shape)


def _check_writable(name: str, target: Plane, sources: Sequence[Plane]) -> None:
    if not target.flags.writeable or (target.shape[0] > 1 and target.strides[0] == 0):
        raise ValueError(f"{name}: is not writable")
    if any(np.may_share_memory(target, source) for source in sources):
        raise ValueError(f"{name}: overlaps the frame or the background")


def _background(
    background: Sequence[Plane] | tuple[int, int, int], planes: Sequence[Plane]
) -> list[Plane]:
    """Planes like the frame's; a constant becomes one row that repeats."""
    _check_sequence("background", background)
    if any(isinstance(plane, np.ndarray) for plane in background):
        _check_like("background", background, planes)  # type: ignore[arg-type]
        return list(background)  # type: ignore[arg-type]
    eight, peak = planes[0].dtype == np.uint8, 255 if planes[0].dtype == np.uint8 else 1023
    values = _reals("background", background, 3)  # type: ignore[arg-type]
    if not all(0 <= value <= peak and value.is_integer() for value in values):
        raise ValueError(f"background: {background!r} is not three code values in 0..{peak}")
    codes = [int(value) << (0 if eight or len(planes) == 3 else 6) for value in values]
    colors = [codes[0], *codes[1:]] if len(planes) == 3 else [codes[0], codes[1:]]
    return [
        np.broadcast_to(np.full(plane.shape[1:], color, plane.dtype), plane.shape)
        for plane, color in zip(planes, colors, strict=True)
    ]
