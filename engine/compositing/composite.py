"""Backgrounds, and the people blended over them."""

from __future__ import annotations

import functools
import logging
import math
import re
from abc import ABC, abstractmethod
from dataclasses import replace
from fractions import Fraction
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte import cpp_ext as kernels
from fusematte.engine.backends import Map
from fusematte.engine.compositing.look import PLAIN, Look, despilled, wrapped
from fusematte.engine.errors import BackgroundError, FuseMatteError, TruncatedInputError
from fusematte.engine.frame import Frame, Matte, PixelFormat, Plane, Planes
from fusematte.engine.matting.refine import coefficients
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.sources import is_sequence, is_url
from fusematte.engine.pixels.buffer_pool import new_plane, new_planes
from fusematte.engine.pixels.color import as_float, convert_planes, frame_from_rgb

Behind = Planes | tuple[int, int, int] | Map
"""What the kernel takes for a background: planes of the frame's format, one colour (Y, U, V), or a
small picture [3, h, w], float32, in code values, to be interpolated."""

log = logging.getLogger(__name__)

GREEN = "#00b140"
"""The green of studio screens."""
DEFAULT_BLUR = 18.0
"""Sigma of the blurred background, in pixels of a picture 720 lines high."""
FINEST_BLUR = 1.8
"""Least sigma of a blurred background, in pixels of the small picture that is blurred."""
FOREGROUND_RADII = (40, 3)
"""Of the two passes of blur fusion, at half the network's resolution."""
YCBCR_BOUNDS = ((0.0, 1.0), (-0.5, 0.5), (-0.5, 0.5))


class Background(ABC):
    """What appears where the people are not.

    shows_camera: it is made from the frame's own pixels, and may not be shown without a matte.
    """

    shows_camera = True

    @abstractmethod
    def behind(self, frame: Frame, matte: Matte) -> Behind:
        """The background of this frame, in the frame's own code values."""

    def begin(self, time: Fraction) -> None:  # noqa: B027
        """Tells when the job's first frame is shown, if that is not the first one asked for."""

    def close(self) -> None:  # noqa: B027
        """Frees what the background holds open; most hold nothing."""


class ColorBackground(Background):
    """One colour; ``rgb`` in 0..255."""

    shows_camera = False

    def __init__(self, rgb: tuple[int, int, int]) -> None:
        self._pixel = frame_from_rgb(np.array(rgb, np.uint8).reshape(1, 1, 3))

    def behind(self, frame: Frame, matte: Matte) -> Behind:  # noqa: ARG002
        y, u, v = convert_planes(self._pixel.planes, self._pixel, frame)
        return int(y[0, 0]), int(u[0, 0]), int(v[0, 0])


class TransparentBackground(Background):
    """Nothing: frames get an alpha.  Where something must be seen through them, it is black."""

    shows_camera = False

    def behind(self, frame: Frame, matte: Matte) -> Behind:  # noqa: ARG002
        black, _, neutral, _ = frame.levels
        return int(black), int(neutral), int(neutral)


class ImageBackground(Background):
    """A still picture, covering the frame."""

    shows_camera = False

    def __init__(self, path: str) -> None:
        self._picture = frame_from_rgb(read_image(path))
        self._fitted: tuple[Frame, Planes] | None = None

    def behind(self, frame: Frame, matte: Matte) -> Behind:  # noqa: ARG002
        if self._fitted is None or not _alike(self._fitted[0], frame):
            self._fitted = frame, fit_frame(self._picture, frame)
        return self._fitted[1]


class VideoBackground(Background):
    """A video, covering the frame, at its own pace from the job's first frame on; it loops."""

    shows_camera = False

    def __init__(self, path: str) -> None:
        self._path = path
        self._begin: Fraction | None = None
        self._now = Fraction(0)
        self._cut = False
        self._fitted: tuple[Frame, Frame, Planes] | None = None
        self._rewind()

    def begin(self, time: Fraction) -> None:
        self._begin = self._now = time

    def close(self) -> None:
        self._reader.close()

    def _open(self) -> None:
        self._reader = Reader(self._path)
        self._frames = iter(self._reader)

    def _rewind(self) -> None:
        self._open()
        self._shown = self._next = next(self._frames)
        self._loop_begin = -self._shown.time

    def behind(self, frame: Frame, matte: Matte) -> Planes:  # noqa: ARG002
        if self._begin is None:
            self._begin = frame.time
        elif frame.time < self._now:  # another job
            self._begin = frame.time
            self._reader.close()
            self._rewind()
        self._now = frame.time
        self._advance(frame.time - self._begin)
        shown, like, planes = self._fitted or (None, frame, None)
        if planes is None or shown is not self._shown or not _alike(like, frame):
            planes = fit_frame(self._shown, frame)
            self._fitted = self._shown, frame, planes
        return planes

    def _advance(self, elapsed: Fraction) -> None:
        """Moves on to the last background frame that is due."""
        while self._due(self._next) <= elapsed:
            self._shown = self._next
            self._next = self._read()

    def _due(self, picture: Frame) -> Fraction:
        return self._loop_begin + picture.time

    def _read(self) -> Frame:
        frame = self._read_on()
        if frame is None:
            end = self._shown.time + (
                self._shown.duration * self._shown.time_base or Fraction(1, 25)
            )
            self._reader.close()
            self._open()
            frame = next(self._frames)
            self._loop_begin += end - frame.time
        return frame

    def _read_on(self) -> Frame | None:
        try:
            return next(self._frames, None)
        except TruncatedInputError as error:
            if not self._cut:
                log.warning("background %s; that much of it is shown, over and over", error)
            self._cut = True
            return None


class BlurBackground(Background):
    """The frame itself, out of focus; the people do not bleed into it.

    sigma: in pixels of a picture 720 lines high.
    """

    def __init__(self, sigma: float = DEFAULT_BLUR) -> None:
        self._sigma = sigma

    def behind(self, frame: Frame, matte: Matte) -> Behind:
        sigma = self._sigma * min(matte.alpha.shape) / 720
        # What is blurred over many pixels does not need them all.
        factor = max(1, int(sigma / FINEST_BLUR))
        # Averages over the background alone: weighted by what is not people, then normalised.
        weight = np.clip(1 - _shrink(matte.alpha, factor), 1e-3, 1)
        share = 1 / _gaussian(weight, sigma / factor)
        blurred = np.stack(
            [
                _gaussian(_shrink(plane, factor) * weight, sigma / factor) * share
                for plane in matte.color
            ]
        )
        black, _, neutral, _ = frame.levels
        origin = np.array([black, neutral, neutral], np.float32)
        return np.asarray(blurred * _spans(frame)[:, None, None] + origin[:, None, None])


def _gaussian(picture: Map, sigma: float) -> Map:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)


def _shrink(picture: Map, factor: int) -> Map:
    size = (max(1, picture.shape[1] // factor), max(1, picture.shape[0] // factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def _spans(frame: Frame) -> Map:
    """Code values per unit of Y, Cb and Cr."""
    _, luma_span, _, chroma_span = frame.levels
    return np.array([luma_span, chroma_span, chroma_span], np.float32)


def _alike(a: Frame, b: Frame) -> bool:
    """Whether a background fitted for one frame fits the other."""
    return (a.planes[0].shape, a.format, a.color, a.rotation, a.aspect) == (
        b.planes[0].shape,
        b.format,
        b.color,
        b.rotation,
        b.aspect,
    )


def read_image(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """Reads a picture as RGB, turned as its EXIF orientation says: [H, W, 3], uint8.

    Raises:
        OSError: it cannot be read, or is no picture that OpenCV knows.
    """
    data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise OSError("not a picture in a format that can be read")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def fit_frame(source: Frame, target: Frame) -> Planes:
    """Scales ``source`` to cover ``target``, crops what overhangs, in the target's own planes."""
    turns = (source.rotation - target.rotation) // 90 % 4
    height, width = target.height, target.width
    shape = float(width * target.aspect / height)
    if turns % 2:
        height, width, shape = width, height, 1 / shape
    planes = []
    for index, plane in enumerate(_crop(source, shape)):
        size = (height, width) if index == 0 else _chroma_size(target, turns)
        shrinks = plane.shape[0] > size[0]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        scaled = cv2.resize(plane, size[::-1], interpolation=method)
        planes.append(np.ascontiguousarray(np.rot90(scaled, -turns)))
    return convert_planes((planes[0], planes[1], planes[2]), source, target)


def _chroma_size(target: Frame, turns: int) -> tuple[int, int]:
    height, width = target.planes[1].shape
    return (width, height) if turns % 2 else (height, width)


def _crop(source: Frame, shape: float) -> Planes:
    """The middle of a frame whose sides, on display, have the ratio ``shape``: views."""
    own = float(source.width * source.aspect / source.height)
    width = source.width if own <= shape else max(1, round(source.width * shape / own))
    height = source.height if own >= shape else max(1, round(source.height * own / shape))
    x, y = (source.width - width) // 2, (source.height - height) // 2
    sx, sy = source.format.x_shift, source.format.y_shift
    luma = source.planes[0][y : y + height, x : x + width]
    chroma_height, chroma_width = source.format.chroma_shape(height, width)
    u, v = (
        plane[y >> sy : (y >> sy) + chroma_height, x >> sx : (x >> sx) + chroma_width]
        for plane in source.planes[1:]
    )
    return luma, u, v


def open_background(spec: str | PathLike[str]) -> Background:
    """Opens what ``--background`` names: ``green``, ``#rrggbb``, ``blur[:sigma]``,
    ``transparent``, a picture or a video by its path, URL, folder or pattern.

    Raises:
        BackgroundError: it is none of these, or cannot be read.
    """
    text = fspath(spec)
    if text == "green":
        text = GREEN
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        red, green, blue = bytes.fromhex(text[1:])
        return ColorBackground((red, green, blue))
    if text == "blur" or text.startswith("blur:"):
        return BlurBackground(_parse_sigma(text))
    if text == "transparent":
        return TransparentBackground()
    return _open_video(text) if is_url(text) or is_sequence(text) else _open_file(text)


def _parse_sigma(text: str) -> float:
    _, _, number = text.partition(":")
    if not number and text == "blur":
        return DEFAULT_BLUR
    try:
        sigma = float(number)
    except ValueError:
        sigma = math.nan
    if not 0 < sigma <= 720:
        raise BackgroundError(f"background {text!r}: sigma must be a number over 0, at most 720")
    return sigma


def _open_file(path: str) -> Background:
    if not Path(path).is_file():
        raise BackgroundError(
            f"background {path!r} is neither green, #rrggbb, blur[:sigma], transparent "
            "nor a file that exists"
        )
    try:
        return ImageBackground(path)
    except OSError as error:
        reason = error
    try:
        return VideoBackground(path)
    except (FuseMatteError, StopIteration) as error:
        raise BackgroundError(
            f"background {path!r} is neither a picture ({reason}) nor a video ({error})"
        ) from error


def _open_video(path: str) -> Background:
    try:
        return VideoBackground(path)
    except (FuseMatteError, StopIteration) as error:
        raise BackgroundError(f"background {path!r} cannot be read: {error}") from error


class Composite(NamedTuple):
    """What a frame and its matte make.

    frame: the people over the new background; over a transparent one, with an alpha.
    alpha: the full-range alpha plane, if wanted.
    foreground: the people's own colours everywhere, with the alpha, if wanted.
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

    In the edges the people's own colour takes the place of the mixed one, so that hair does not
    carry the old background along.  Where the frame has an alpha of its own, the two multiply.
    Their own colours are without the new background's light.

    threads: of the kernels; the caller's other cores may have enough to do.
    """
    transparent = isinstance(background, TransparentBackground)
    with_foreground = with_foreground or transparent
    needs_alpha = with_alpha or with_foreground or frame.alpha is not None
    alpha = new_plane(frame) if needs_alpha else None
    behind = background.behind(frame, matte)
    own, lit = _foreground_shifts(frame, matte, None if transparent else behind, look, threads)
    slope, offset = coefficients(matte, threads)

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
    planes = None if transparent else layer(behind, lit, keep_solid=look == PLAIN)
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
    """What to add to the frame's planes to get the people's own colour, and that colour in the
    light of what is behind: [3, h, w], code values."""
    # Colours vary slowly: half the network's resolution is enough, at a quarter of the time.
    color = np.stack([_shrink(plane, 2) for plane in matte.color])
    alpha = _shrink(matte.alpha, 2)
    radii = [min(radius, *alpha.shape) for radius in FOREGROUND_RADII]
    people, room = kernels.estimate_foreground(
        color, alpha, radii, bounds=YCBCR_BOUNDS, threads=threads
    )
    if look.despill:
        people = despilled(people, room, alpha, look.despill)
    lit = people
    if look.light_wrap and behind is not None:
        lit = wrapped(people, _light(behind, frame, alpha.shape), alpha, look.light_wrap)
    spans = _spans(frame)[:, None, None]
    own_shift = (people - color) * spans
    return own_shift, own_shift if lit is people else (lit - color) * spans


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
    return np.asarray((np.stack(small) - origin) / _spans(frame)[:, None, None], np.float32)


_cached_background = functools.lru_cache(maxsize=4)(open_background)


def composite(
    frame: Frame,
    matte: Matte,
    background: str | PathLike[str] | Background = "green",
    *,
    light_wrap: float = 0.0,
    despill: float = 0.0,
) -> Frame:
    """The people of a frame over another background, in the frame's own size and layout.

    Over ``transparent`` the frame gets an alpha, and its colours are the people's own.

    A background given by name or path is opened on its first use and kept for the next frames.
    light_wrap, despill: see ``engine.look.Look``.

    Raises:
        BackgroundError: the background is unknown or cannot be read.
        UsageError: light_wrap or despill is no number in 0..1.
    """
    look = Look(light_wrap=light_wrap, despill=despill)
    if not isinstance(background, Background):
        background = _cached_background(fspath(background))
    return compose(frame, matte, background, look=look).frame
