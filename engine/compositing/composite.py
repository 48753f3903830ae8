"""A frame and its matte over a background: refinement, own colours, one pass over the planes."""

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
    Behind,
    TransparentBackground,
    open_background,
)
from fusematte.engine.compositing.look import PLAIN, Look, despilled, wrapped
from fusematte.engine.frame import Frame, Map, Matte, PixelFormat, Plane, Planes, Stream
from fusematte.engine.matting.mask import WHOLE, Mask, edited_matte
from fusematte.engine.pixels.buffer_pool import new_plane, new_planes
from fusematte.engine.pixels.color import as_float, spans
from fusematte.engine.pixels.fit import shrink

FOREGROUND_RADII = (40, 3)
"""Of the two passes of blur fusion, at half the network's resolution."""
KEPT = 4
"""Backgrounds that ``composite`` keeps open for a stream."""
YCBCR_BOUNDS = ((0.0, 1.0), (-0.5, 0.5), (-0.5, 0.5))


class Composite(NamedTuple):
    """What a frame and its matte make.

    frame: the person over the new background; over a transparent one, with an alpha.
    alpha: the full-range alpha plane, if wanted.
    foreground: the person's own colours everywhere, with the alpha, if wanted.
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
    """Refines the matte to the frame's size and blends the frame over the background.

    In the edges the person's own colour takes the place of the mixed one, so that hair does not
    carry the old background along.  Where the frame has an alpha of its own, the two multiply.
    Their own colours are without the new background's light.

    threads: of the kernels; the caller's other cores may have enough to do.
    """
    transparent = isinstance(background, TransparentBackground)
    with_foreground = with_foreground or transparent
    needs_alpha = with_alpha or with_foreground or frame.alpha is not None
    alpha = new_plane(frame) if needs_alpha else None
    matte, (slope, offset) = edited_matte(frame, matte, look.mask, threads)
    behind = background.behind(frame, matte)
    own, lit = _foreground_shifts(frame, matte, None if transparent else behind, look, threads)

    def layer(behind: Behind | None, shift: Map, *, keep_solid: bool) -> Planes:
        planes = new_planes(frame)
        kernels.composite(
            frame.planes,
            slope,
            offset,
            behind,
            levels=frame.levels,
            shift=shift,
            # The colour is interpolated from a small picture, and reaches into the solid.
            keep_solid=keep_solid,
            out=planes,
            alpha=alpha,
            threads=threads,
        )
        return planes

    colors = layer(None, own, keep_solid=not look.despill) if with_foreground else None
    planes = None if transparent else layer(behind, lit, keep_solid=look.keeps_colors)
    if alpha is not None and frame.alpha is not None:
        if planes is not None:
            planes = _show_through(planes, behind, frame.alpha, frame.format)
        alpha = _product(alpha, frame.alpha, frame.format)
    foreground = None if colors is None else replace(frame, planes=colors, alpha=alpha)
    picture = foreground if planes is None else replace(frame, planes=planes, alpha=None)
    assert picture is not None
    return Composite(picture, alpha if with_alpha else None, foreground)


def _product(alpha: Plane, other: Plane, format: PixelFormat) -> Plane:
    """Two opacities one after the other, rounded to nearest."""
    product = alpha.astype(np.uint32) * other
    product += format.peak // 2
    return np.asarray(product // format.peak, format.dtype)


def _show_through(planes: Planes, behind: Behind, own: Plane, format: PixelFormat) -> Planes:
    """The planes of a composite with the background where the frame itself was transparent."""
    opacity = as_float(own / np.float32(format.peak))
    shown = []
    for plane, layer in zip(planes, behind, strict=True):
        size = plane.shape[1], plane.shape[0]
        far = as_float(np.asarray(layer))
        if isinstance(behind, np.ndarray):
            far = as_float(cv2.resize(far, size, interpolation=cv2.INTER_LINEAR))
        near = opacity
        if opacity.shape != plane.shape:
            near = as_float(cv2.resize(opacity, size, interpolation=cv2.INTER_AREA))
        mixed = far + (as_float(plane) - far) * near
        shown.append(np.clip(mixed + 0.5, 0, format.peak).astype(plane.dtype))
    return shown[0], shown[1], shown[2]


def _foreground_shifts(
    frame: Frame, matte: Matte, behind: Behind | None, look: Look, threads: int
) -> tuple[Map, Map]:
    """What to add to the frame's planes to get the person's own colour, and that colour in the
    light of what is behind: [3, h, w], code values."""
    # Colours vary slowly: half the network's resolution is enough, at a quarter of the time.
    color = np.stack([shrink(plane, 2) for plane in matte.color])
    alpha = shrink(matte.alpha, 2)
    radii = [min(radius, *alpha.shape) for radius in FOREGROUND_RADII]
    foreground, old = kernels.estimate_foreground(
        color, alpha, radii, bounds=YCBCR_BOUNDS, threads=threads
    )
    if look.despill:
        foreground = despilled(foreground, old, alpha, look.despill)
    lit = foreground
    if look.light_wrap and behind is not None:
        lit = wrapped(foreground, _light(behind, frame, alpha.shape), alpha, look.light_wrap)
    scale = spans(frame)[:, None, None]
    own_shift = (foreground - color) * scale
    return own_shift, own_shift if lit is foreground else (lit - color) * scale


def _light(behind: Behind, frame: Frame, size: tuple[int, int]) -> Map:
    """What is behind as a small picture, [3, *size], Y'CbCr."""
    if not isinstance(behind, np.ndarray) and isinstance(behind[0], np.ndarray):
        return kernels.resize_to_tensor(
            behind, *size, matrix=frame.matrix, levels=frame.levels
        ).ycbcr
    black, _, neutral, _ = frame.levels
    origin = np.array([black, neutral, neutral], np.float32)[:, None, None]
    codes = np.asarray(behind, np.float32).reshape(3, *np.shape(behind)[1:] or (1, 1))
    small = [cv2.resize(code, size[::-1], interpolation=cv2.INTER_LINEAR) for code in codes]
    return np.asarray((np.stack(small) - origin) / spans(frame)[:, None, None], np.float32)


_opened: WeakKeyDictionary[Stream, dict[str, Background]] = WeakKeyDictionary()
"""Backgrounds by the stream whose frames are put over them: a video has a clock of its own for
each, and goes when the stream's Matter does."""
_UNKNOWN = Stream()


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
    """The person in a frame over another background, in the frame's own size and layout.

    Over ``transparent`` the frame gets an alpha, and its colours are the person's own.

    A background given by name or path is opened on its first use and kept for the next frames that
    the same Matter has matted.
    light_wrap, despill, mask: see ``engine.compositing.look.Look``.

    Raises:
        BackgroundError: the background is unknown or cannot be read.
        UsageError: light_wrap or despill is no number in 0..1.
    """
    look = Look(light_wrap=light_wrap, despill=despill, mask=mask)
    if not isinstance(background, Background):
        background = _background_of(matte, fspath(background))
    return compose(frame, matte, background, look=look).frame
