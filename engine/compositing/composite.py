"""Compositing: a frame and its matte over a new background, in one pass over the frame's planes."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike, fspath
from typing import NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from fusematte import cpp_ext as kernels
from fusematte.engine.compositing.backgrounds import (
    Background,
    BackgroundPixels,
    TransparentBackground,
    open_background,
)
from fusematte.engine.compositing.look import PLAIN, Look, despilled, wrapped
from fusematte.engine.frame import Frame, Map, Matte, PixelFormat, Plane, Planes, StreamKey
from fusematte.engine.matting.mask import WHOLE, Mask, edited_alpha, edited_matte
from fusematte.engine.pixels.buffer_pool import new_plane, new_planes
from fusematte.engine.pixels.color import as_float, gray_frame, spans
from fusematte.engine.pixels.fit import shrink

FOREGROUND_RADII = (40, 3)
"""Radii of the two passes of blur-fusion foreground estimation, at half the network's
resolution."""
KEPT = 4
"""Backgrounds that ``composite`` keeps open for each Matter."""
YCBCR_BOUNDS = ((0.0, 1.0), (-0.5, 0.5), (-0.5, 0.5))


class Composite(NamedTuple):
    """The result for one frame.

    frame: the person over the new background; with an alpha if that is transparent; over ``mask``
        the alpha as a gray picture.
    alpha: the full-range alpha plane, if requested or over ``mask``.
    foreground: the estimated foreground colours with the alpha, if requested.
    """

    frame: Frame
    alpha: Plane | None
    foreground: Frame | None


def compose(
    frame: Frame,
    matte: Matte,
    background: Background,
    *,
    look: Look = PLAIN,
    with_alpha: bool = False,
    with_foreground: bool = False,
    threads: int = 1,
) -> Composite:
    """Refines the matte to the frame's resolution and blends the frame over the background.

    At edges the estimated foreground colour replaces the mixed colour of the frame, so that hair
    does not keep the old background.  If the frame has an alpha plane, it is multiplied with the
    matte.  ``Composite.foreground`` is without light wrap.

    threads: CPU threads of the kernels; other stages may keep the remaining cores busy.
    """
    if background.content == "gray":
        return _mask(frame, matte, look, with_foreground, threads)
    transparent = background.content == "rgba"
    with_foreground = with_foreground or transparent
    needs_alpha = with_alpha or with_foreground or frame.alpha is not None
    alpha = new_plane(frame) if needs_alpha else None
    matte, (slope, offset) = edited_matte(frame, matte, look.mask, threads)
    pixels = background.render(frame, matte)
    own, lit = _foreground_shifts(frame, matte, None if transparent else pixels, look, threads)

    # Without keep_solid the shift, interpolated from a small picture, spills into opaque areas.
    def layer(pixels: BackgroundPixels | None, shift: Map, *, keep_solid: bool) -> Planes:
        planes = new_planes(frame)
        kernels.composite(
            frame.planes, slope, offset, pixels,
            levels=frame.levels, shift=shift, keep_solid=keep_solid,
            out=planes, alpha=alpha, threads=threads,
        )  # fmt: skip
        return planes

    colors = layer(None, own, keep_solid=not look.despill) if with_foreground else None
    planes = None if transparent else layer(pixels, lit, keep_solid=look.keeps_colors)
    if alpha is not None and frame.alpha is not None:
        if planes is not None:
            planes = _show_through(planes, pixels, frame.alpha, frame.format)
        alpha = _product(alpha, frame.alpha, frame.format)
    foreground = None if colors is None else replace(frame, planes=colors, alpha=alpha)
    picture = foreground if planes is None else replace(frame, planes=planes, alpha=None)
    assert picture is not None
    return Composite(picture, alpha if with_alpha else None, foreground)


def _mask(frame: Frame, matte: Matte, look: Look, with_foreground: bool, threads: int) -> Composite:
    """The alpha alone; the foreground colours, which take longer, are only made if requested."""
    if with_foreground:
        cut = compose(frame, matte, TransparentBackground(), look=look, threads=threads).frame
        assert cut.alpha is not None
        return Composite(gray_frame(frame, cut.alpha), cut.alpha, cut)
    alpha = edited_alpha(frame, matte, look.mask, threads)
    if frame.alpha is not None:
        alpha = _product(alpha, frame.alpha, frame.format)
    return Composite(gray_frame(frame, alpha), alpha, None)


def _product(alpha: Plane, other: Plane, format: PixelFormat) -> Plane:
    """The product of two alpha planes, rounded to nearest."""
    product = alpha.astype(np.uint32) * other
    product += format.peak // 2
    return np.asarray(product // format.peak, format.dtype)


def _show_through(
    planes: Planes, pixels: BackgroundPixels, own: Plane, format: PixelFormat
) -> Planes:
    """Blends the background into a composite where the source itself is transparent."""
    opacity = as_float(own / np.float32(format.peak))
    shown = []
    for plane, layer in zip(planes, pixels, strict=True):
        size = plane.shape[1], plane.shape[0]
        far = as_float(np.asarray(layer))
        if isinstance(pixels, np.ndarray):
            far = as_float(cv2.resize(far, size, interpolation=cv2.INTER_LINEAR))
        near = opacity
        if opacity.shape != plane.shape:
            near = as_float(cv2.resize(opacity, size, interpolation=cv2.INTER_AREA))
        mixed = far + (as_float(plane) - far) * near
        shown.append(np.clip(mixed + 0.5, 0, format.peak).astype(plane.dtype))
    return shown[0], shown[1], shown[2]


def _foreground_shifts(
    frame: Frame, matte: Matte, pixels: BackgroundPixels | None, look: Look, threads: int
) -> tuple[Map, Map]:
    """The differences to add to the frame's planes, [3, h, w] in code values: to the estimated
    foreground colour, and to that colour with light wrap."""
    # Colours vary slowly: half the network's resolution is enough and takes a quarter of the time.
    color = np.stack([shrink(plane, 2) for plane in matte.color])
    alpha = shrink(matte.alpha, 2)
    radii = [min(radius, *alpha.shape) for radius in FOREGROUND_RADII]
    foreground, old = kernels.estimate_foreground(
        color, alpha, radii, bounds=YCBCR_BOUNDS, threads=threads
    )
    if look.despill:
        foreground = despilled(foreground, old, alpha, look.despill)
    lit = foreground
    if look.light_wrap and pixels is not None:
        lit = wrapped(foreground, _light(pixels, frame, alpha.shape), alpha, look.light_wrap)
    scale = spans(frame)[:, None, None]
    own_shift = (foreground - color) * scale
    return own_shift, own_shift if lit is foreground else (lit - color) * scale


def _light(pixels: BackgroundPixels, frame: Frame, size: tuple[int, int]) -> Map:
    """The background as a small picture, [3, *size], Y'CbCr."""
    if not isinstance(pixels, np.ndarray) and isinstance(pixels[0], np.ndarray):
        return kernels.resize_to_ycbcr(pixels, *size, levels=frame.levels)
    black, _, neutral, _ = frame.levels
    origin = np.array([black, neutral, neutral], np.float32)[:, None, None]
    codes = np.asarray(pixels, np.float32).reshape(3, *np.shape(pixels)[1:] or (1, 1))
    small = [cv2.resize(code, size[::-1], interpolation=cv2.INTER_LINEAR) for code in codes]
    return np.asarray((np.stack(small) - origin) / spans(frame)[:, None, None], np.float32)


_opened: WeakKeyDictionary[StreamKey, dict[str, Background]] = WeakKeyDictionary()
"""Open backgrounds by stream: a background video keeps one position per stream, and is dropped
with the stream's Matter."""
_UNKNOWN = StreamKey()


def _background_of(matte: Matte, spec: str) -> Background:
    opened = _opened.setdefault(matte.stream or _UNKNOWN, {})
    if spec not in opened:
        while len(opened) >= KEPT:
            opened.pop(next(iter(opened))).close()
        opened[spec] = open_background(spec)
    return opened[spec]


def composite(
    frame: Frame,
    matte: Matte,
    background: str | PathLike[str] | Background = "green",
    *,
    light_wrap: float = 0.0,
    despill: float = 0.0,
    mask: Mask = WHOLE,
) -> Frame:
    """Composites a frame over a new background, in the frame's own size and pixel format.

    Over ``transparent`` the result has an alpha plane and the estimated foreground colours; over
    ``mask`` it is the alpha as a gray picture.

    A background given by name or path is opened on first use and kept open for further frames of
    the same Matter.
    light_wrap, despill, mask: see ``engine.compositing.look.Look``.

    Raises:
        BackgroundError: the background is unknown or cannot be read.
        UsageError: light_wrap or despill is not within 0..1.
    """
    look = Look(light_wrap=light_wrap, despill=despill, mask=mask)
    if not isinstance(background, Background):
        background = _background_of(matte, fspath(background))
    return compose(frame, matte, background, look=look).frame
