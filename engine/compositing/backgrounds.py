"""The kinds of new background: colour, picture, animation, video, blurred camera; or none."""

from __future__ import annotations

import logging
import math
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate
from os import PathLike, fspath
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.errors import (
    BackgroundError,
    FuseMatteError,
    InputError,
    TruncatedInputError,
    reason_of,
)
from fusematte.engine.frame import Frame, Map, Matte, Planes
from fusematte.engine.media.files import (
    is_animated,
    is_known_picture,
    is_played_as_video,
    read_animation,
    read_image,
)
from fusematte.engine.media.formats import Content
from fusematte.engine.media.notices import CollectedHere
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.sources import is_sequence, is_url
from fusematte.engine.pixels.color import convert_planes, frame_from_rgb, spans
from fusematte.engine.pixels.fit import fit_frame, shrink

log = logging.getLogger(__name__)
log.addFilter(CollectedHere())
BackgroundPixels = Planes | tuple[int, int, int] | Map
"""A background as the kernel takes it: planes in the frame's format, one colour (Y, U, V), or a
small picture [3, h, w], float32, in code values, that the kernel interpolates."""
GREEN = "#00b140"
"""The green of studio screens."""
DEFAULT_BLUR = 18.0
"""Sigma of the blurred background, in pixels of a picture 720 lines high."""
FINEST_BLUR = 1.8
"""Minimum sigma in pixels of the downscaled picture that is blurred."""


class Background(ABC):
    """The new background of a video.

    shows_camera: whether it is made from the frame's own pixels and must not be shown without a
    matte.
    content: what results over it hold: colour, colour with alpha, or the alpha alone.
    """

    shows_camera = True
    content: Content = "color"

    @abstractmethod
    def render(self, frame: Frame, matte: Matte | None) -> BackgroundPixels:
        """The background for this frame, in the frame's code values.

        matte: required if ``shows_camera``; otherwise it may be None.
        """

    def begin(self, time: Fraction) -> None:  # noqa: B027
        """Sets the time of the job's first frame, for jobs that do not start with it."""

    def close(self) -> None:  # noqa: B027
        """Closes the background's files, if it has any."""


class ColorBackground(Background):
    """One colour; ``rgb`` in 0..255."""

    shows_camera = False

    def __init__(self, rgb: tuple[int, int, int]) -> None:
        self._pixel = frame_from_rgb(np.array(rgb, np.uint8).reshape(1, 1, 3))

    def render(self, frame: Frame, matte: Matte | None) -> BackgroundPixels:  # noqa: ARG002
        y, u, v = convert_planes(self._pixel.planes, self._pixel, frame)
        return int(y[0, 0]), int(u[0, 0]), int(v[0, 0])


class TransparentBackground(Background):
    """No background: results carry an alpha.  Where pixels are needed all the same, they are
    black."""

    shows_camera = False
    content: Content = "rgba"

    def render(self, frame: Frame, matte: Matte | None) -> BackgroundPixels:  # noqa: ARG002
        black, _, neutral, _ = frame.levels
        return int(black), int(neutral), int(neutral)


class MaskBackground(TransparentBackground):
    """No background and no people either: results are the alpha as a gray picture."""

    content: Content = "gray"


NONE = {"transparent": TransparentBackground, "mask": MaskBackground}


class ImageBackground(Background):
    """A still picture, scaled to cover the frame."""

    shows_camera = False

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        """picture: [H, W, 3], RGB."""
        self._picture = frame_from_rgb(picture)
        self._fitted: tuple[Frame, Planes] | None = None

    def render(self, frame: Frame, matte: Matte | None) -> BackgroundPixels:  # noqa: ARG002
        if self._fitted is None or not _alike(self._fitted[0], frame):
            self._fitted = frame, fit_frame(self._picture, frame)
        return self._fitted[1]


class AnimatedBackground(Background):
    """An animation (GIF, APNG, WebP), scaled to cover the frame; it loops."""

    shows_camera = False

    def __init__(self, path: str) -> None:
        pictures, durations = read_animation(path)
        self._pictures = [frame_from_rgb(picture) for picture in pictures]
        self._ends = list(accumulate(durations))
        self._begin: Fraction | None = None
        self._fitted: tuple[int, Frame, Planes] | None = None

    def begin(self, time: Fraction) -> None:
        self._begin = time

    def render(self, frame: Frame, matte: Matte | None) -> BackgroundPixels:  # noqa: ARG002
        if self._begin is None or frame.time < self._begin:  # a new job
            self._begin = frame.time
        elapsed = (frame.time - self._begin) * 1000 % self._ends[-1]
        index = bisect_right(self._ends, elapsed)
        shown, like, planes = self._fitted or (None, frame, None)
        if planes is None or shown != index or not _alike(like, frame):
            planes = fit_frame(self._pictures[index], frame)
            self._fitted = index, frame, planes
        return planes


class VideoBackground(Background):
    """A video, scaled to cover the frame; it starts with the job, keeps its own speed and loops."""

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
        try:
            self._reader = Reader(self._path)
        except InputError as error:
            raise BackgroundError(
                f"background {error}", path=self._path, option="background"
            ) from error
        self._frames = iter(self._reader)

    def _rewind(self) -> None:
        self._open()
        self._shown = self._next = next(self._frames)
        self._loop_begin = -self._shown.time

    def render(self, frame: Frame, matte: Matte | None) -> Planes:  # noqa: ARG002
        if self._begin is None:
            self._begin = frame.time
        elif frame.time < self._now:  # a new job
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
        """Advances to the background frame due at this time."""
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
                log.warning("background %s; the part before that is looped", error)
            self._cut = True
            return None


class BlurBackground(Background):
    """The frame itself, blurred, without the person's colours bleeding into it.

    sigma: in pixels of a picture 720 lines high.
    """

    def __init__(self, sigma: float = DEFAULT_BLUR) -> None:
        self.sigma = sigma

    def render(self, frame: Frame, matte: Matte | None) -> BackgroundPixels:
        if matte is None:
            raise TypeError("a blurred background needs a matte")
        sigma = self.sigma * min(matte.alpha.shape) / 720
        # A wide blur needs no full resolution.
        factor = max(1, int(sigma / FINEST_BLUR))
        # Averages the background alone: weighted by 1 - alpha, then normalised.
        weight = np.clip(1 - shrink(matte.alpha, factor), 1e-3, 1)
        share = 1 / _gaussian(weight, sigma / factor)
        blurred = np.stack(
            [
                _gaussian(shrink(plane, factor) * weight, sigma / factor) * share
                for plane in matte.color
            ]
        )
        black, _, neutral, _ = frame.levels
        origin = np.array([black, neutral, neutral], np.float32)
        return np.asarray(blurred * spans(frame)[:, None, None] + origin[:, None, None])


def _gaussian(picture: Map, sigma: float) -> Map:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)


def _alike(a: Frame, b: Frame) -> bool:
    """Whether a background fitted to one frame fits the other."""
    return (a.planes[0].shape, a.format, a.color, a.rotation, a.aspect) == (
        b.planes[0].shape,
        b.format,
        b.color,
        b.rotation,
        b.aspect,
    )


def open_background(spec: str | PathLike[str]) -> Background:
    """Opens a background: ``green``, ``#rrggbb``, ``blur[:sigma]``, ``transparent``, ``mask``, or a
    picture or video by its path, URL, folder or pattern.

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
    if text in NONE:
        return NONE[text]()
    return _open_video(text) if is_url(text) or is_sequence(text) else _open_file(text)


def content_over(spec: str | PathLike[str]) -> Content:
    """``Background.content`` of a background that is not opened."""
    kind = NONE.get(fspath(spec), Background)
    return kind.content


def _parse_sigma(text: str) -> float:
    _, _, number = text.partition(":")
    if not number and text == "blur":
        return DEFAULT_BLUR
    try:
        sigma = float(number)
    except ValueError:
        sigma = math.nan
    if not 0 < sigma <= 720:
        raise BackgroundError(
            f"background {text!r}: sigma must be above 0 and at most 720", option="background"
        )
    return sigma


def _open_file(path: str) -> Background:
    if not Path(path).is_file():
        raise BackgroundError(
            f"background {path!r} is neither green, #rrggbb, blur[:sigma], transparent, "
            "mask nor a file that exists",
            path=path,
            option="background",
        )
    refused: OSError | None = None
    try:
        if not is_played_as_video(path):
            if is_animated(path):
                return AnimatedBackground(path)
            return ImageBackground(read_image(path, opaque=True))
    except OSError as error:
        if is_known_picture(path):  # libav would decode what the picture reader refuses
            raise _unreadable(path, f"cannot be read: {reason_of(error)}") from error
        refused = error
    return _open_video(path, refused)


def _open_video(path: str, refused: OSError | None = None) -> Background:
    """refused: why it cannot be read as a picture, if that was tried."""
    try:
        return VideoBackground(path)
    except (FuseMatteError, StopIteration) as error:
        why = f"is neither a picture ({refused}) nor a video ({error})"
        if refused is None:
            why = f"cannot be read: {error}"
        raise _unreadable(path, why) from error


def _unreadable(path: str, why: str) -> BackgroundError:
    return BackgroundError(f"background {path!r} {why}", path=path, option="background")
