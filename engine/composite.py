"""Backgrounds, and the people blended over them."""

from __future__ import annotations

import functools
import logging
import math
import re
from abc import ABC, abstractmethod
from fractions import Fraction
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.decode import Reader
from fusematte.engine.errors import BackgroundError, FuseMatteError, TruncatedInputError
from fusematte.engine.frame import Frame, Matte, Plane
from fusematte.engine.pixels import Map, blend, enlarge, estimate_foreground
from fusematte.engine.recolor import convert_planes, frame_from_rgb
from fusematte.engine.refine import refine_float

Planes = tuple[Plane, Plane, Plane]

log = logging.getLogger(__name__)

GREEN = "#00b140"
"""The green of studio screens."""
DEFAULT_BLUR = 18.0
"""Sigma of the blurred background, in pixels of a picture 720 lines high."""


class Background(ABC):
    """What appears where the people are not."""

    @abstractmethod
    def planes_for(self, frame: Frame, matte: Matte) -> Planes:
        """Planes of the frame's own size and layout, or [1, 1] where they are one value."""


class ColorBackground(Background):
    """One colour; ``rgb`` in 0..255."""

    def __init__(self, rgb: tuple[int, int, int]) -> None:
        self._pixel = frame_from_rgb(np.array(rgb, np.uint8).reshape(1, 1, 3))

    def planes_for(self, frame: Frame, matte: Matte) -> Planes:  # noqa: ARG002
        return convert_planes(self._pixel.planes, self._pixel, frame)


class ImageBackground(Background):
    """A still picture, covering the frame."""

    def __init__(self, path: str) -> None:
        self._picture = frame_from_rgb(read_image(path))
        self._fitted: tuple[Frame, Planes] | None = None

    def planes_for(self, frame: Frame, matte: Matte) -> Planes:  # noqa: ARG002
        if self._fitted is None or not _alike(self._fitted[0], frame):
            self._fitted = frame, fit_frame(self._picture, frame)
        return self._fitted[1]


class VideoBackground(Background):
    """A video, covering the frame, at its own pace from the job's first frame on; it loops."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._begin: Fraction | None = None
        self._now = Fraction(0)
        self._cut = False
        self._fitted: tuple[Frame, Frame, Planes] | None = None
        self._rewind()

    def _rewind(self) -> None:
        self._frames = iter(Reader(self._path))
        self._shown = self._next = next(self._frames)
        self._loop_begin = -self._shown.time

    def planes_for(self, frame: Frame, matte: Matte) -> Planes:  # noqa: ARG002
        if self._begin is None:
            self._begin = frame.time
        elif frame.time < self._now:  # another job
            self._begin = frame.time
            self._rewind()
        self._now = frame.time
        self._advance(frame.time - self._begin)
        if self._fitted is None or not self._still_fits(frame):
            self._fitted = self._shown, frame, fit_frame(self._shown, frame)
        return self._fitted[2]

    def _still_fits(self, frame: Frame) -> bool:
        return (
            self._fitted is not None
            and self._fitted[0] is self._shown
            and _alike(self._fitted[1], frame)
        )

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
            self._frames = iter(Reader(self._path))
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

    def planes_for(self, frame: Frame, matte: Matte) -> Planes:
        sigma = self._sigma * min(matte.alpha.shape) / 720
        # What is blurred over many pixels does not need them all.
        factor = max(1, int(sigma / 3))
        *color, alpha = (
            _shrink(part, factor) for part in (matte.guide, *matte.chroma, matte.alpha)
        )
        # Averages over the background alone: weighted by what is not people, then normalised.
        weight = np.clip(1 - alpha, 1e-3, 1)
        blurred = _gaussian(np.dstack(color) * weight[..., None], sigma / factor)
        blurred /= _gaussian(weight, sigma / factor)[..., None]
        return _to_planes(blurred, frame)


def _gaussian(picture: Map, sigma: float) -> Map:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)


def _to_planes(color: Map, frame: Frame) -> Planes:
    """A low-resolution [h, w, 3] YCbCr picture, enlarged to the frame's planes."""
    black, luma_span, neutral, chroma_span = frame.levels
    chroma_shape = frame.planes[1].shape
    return (
        enlarge(np.ascontiguousarray(color[..., 0]), frame.height, frame.width) * luma_span + black,
        enlarge(np.ascontiguousarray(color[..., 1]), *chroma_shape) * chroma_span + neutral,
        enlarge(np.ascontiguousarray(color[..., 2]), *chroma_shape) * chroma_span + neutral,
    )


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
        planes.append(np.rot90(cv2.resize(plane, size[::-1], interpolation=method), -turns))
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
    """Opens what ``--background`` names: ``green``, ``#rrggbb``, ``blur[:sigma]``, a picture or a
    video by its path.

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
    return _open_file(text)


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
            f"background {path!r} is neither green, #rrggbb, blur[:sigma] nor a file that exists"
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


class Composite(NamedTuple):
    """A frame over its new background, and the alpha [H, W], float32, 0..1, that made it."""

    frame: Frame
    alpha: Map


def compose(frame: Frame, matte: Matte, background: Background) -> Composite:
    """Refines the matte to the frame's size and blends the frame over the background.

    In the edges the people's own colour takes the place of the mixed one, so that hair does not
    carry the old background along.
    """
    alpha = refine_float(frame, matte)
    shift = _foreground_shift(frame, matte)
    return Composite(blend(frame, alpha, shift, background.planes_for(frame, matte)), alpha)


def _foreground_shift(frame: Frame, matte: Matte) -> Map:
    """What to add to the frame's planes to get the people's own colour: [3, h, w], code values."""
    # Colours vary slowly: half the network's resolution is enough, at a quarter of the time.
    *color, alpha = (_shrink(part, 2) for part in (matte.guide, *matte.chroma, matte.alpha))
    observed = np.stack(color)
    _, luma_span, _, chroma_span = frame.levels
    spans = np.array([luma_span, chroma_span, chroma_span], np.float32).reshape(3, 1, 1)
    return (estimate_foreground(observed, alpha) - observed) * spans


def _shrink(picture: Map, factor: int) -> Map:
    size = (max(1, picture.shape[1] // factor), max(1, picture.shape[0] // factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


_cached_background = functools.lru_cache(maxsize=4)(open_background)


def composite(
    frame: Frame, matte: Matte, background: str | PathLike[str] | Background = "green"
) -> Frame:
    """The people of a frame over another background, in the frame's own size and layout.

    A background given by name or path is opened on its first use and kept for the next frames.

    Raises:
        BackgroundError: the background is unknown or cannot be read.
    """
    if not isinstance(background, Background):
        background = _cached_background(fspath(background))
    return compose(frame, matte, background).frame
