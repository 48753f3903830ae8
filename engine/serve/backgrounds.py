"""The backgrounds offered on the page: blur, colours, drawn pictures and uploads."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.compositing.backgrounds import DEFAULT_BLUR, GREEN, open_background
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.frame import Frame
from fusematte.engine.media.files import jpeg, read_image, write_png
from fusematte.engine.media.reader import Reader
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.engine.pixels.fit import thumbnail
from fusematte.engine.serve.errors import Refusal

Picture = NDArray[np.uint8]

BLUR = "blur"
MAX_BLUR = 60.0
"""Maximum of the slider, in pixels of a picture 720 lines high."""
MOST = 60
"""Maximum number of backgrounds."""
THUMBNAIL = 256, 144
DRAWN = 1280, 720
"""Width, height."""

COLORS = {"green": ("Green", GREEN), "white": ("White", "#f4f4f2"), "black": ("Black", "#101014")}
GRADIENTS = {
    "dusk": ("Dusk", ("#1b2a49", "#7b4b6e", "#f2a65a")),
    "lagoon": ("Lagoon", ("#0b3c49", "#1c7c7d", "#c8e6c9")),
    "studio": ("Studio", ("#8d9299", "#6a6f78", "#33363d")),
}
"""Name and colours, top to bottom."""


@dataclass(frozen=True, kw_only=True)
class BackgroundChoice:
    """One background.

    id: its name in requests; spec: its name for ``open_background``.
    thumbnail: a JPEG, 256x144.
    """

    id: str
    name: str
    spec: str
    thumbnail: bytes

    def spec_with(self, blur: float) -> str:
        """The spec, with the slider's sigma if this is the blur."""
        return f"{BLUR}:{blur:g}" if self.id == BLUR else self.spec


class Library:
    """The backgrounds of a server; drawn and uploaded pictures are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)
        self._choices: dict[str, BackgroundChoice] = {}
        self._keep(BLUR, "Blur", f"{BLUR}:{DEFAULT_BLUR:g}", frame_from_rgb(_bokeh()))
        for id, (name, colors) in GRADIENTS.items():
            path, picture = folder / f"{id}.png", _gradient(colors)
            write_png(path, picture)
            self._keep(id, name, str(path), frame_from_rgb(picture))
        for id, (name, color) in COLORS.items():
            self._keep(id, name, color, frame_from_rgb(_gradient((color,))))

    def __iter__(self) -> itertools.chain[BackgroundChoice]:
        return itertools.chain(self._choices.values())

    def __getitem__(self, id: str) -> BackgroundChoice:
        """The background with this id.

        Raises:
            Refusal: there is none.
        """
        try:
            return self._choices[id]
        except KeyError:
            raise Refusal("not_found", f"there is no background {id!r}; reload the page") from None

    def next_path(self) -> tuple[str, Path]:
        """An id and a path for an upload.

        Raises:
            Refusal: the library is full.
        """
        if len(self._choices) >= MOST:
            raise Refusal("busy", f"{MOST} backgrounds is the limit; restart the server")
        id = f"upload-{next(self._numbers)}"
        return id, self.folder / id

    def add(self, id: str, path: Path, name: str) -> BackgroundChoice:
        """Adds an uploaded picture or video; slow.

        Raises:
            Refusal: it is neither; the file is deleted then.
        """
        try:
            open_background(path).close()
            frame = _first_frame(path)
        except (FuseMatteError, OSError, StopIteration, MemoryError) as error:
            path.unlink(missing_ok=True)
            _, known, reason = str(error).rpartition("cannot be read: ")
            raise Refusal(
                "unreadable", f"{name}: {reason if known else 'is not a readable picture or video'}"
            ) from error
        return self._keep(id, name, str(path), frame)

    def _keep(self, id: str, name: str, spec: str, frame: Frame) -> BackgroundChoice:
        small = jpeg(thumbnail(frame, *THUMBNAIL))
        choice = BackgroundChoice(id=id, name=name, spec=spec, thumbnail=small)
        self._choices[id] = choice
        return choice


def _first_frame(path: Path) -> Frame:
    """A picture, or the first frame of a video."""
    try:
        return frame_from_rgb(read_image(path))
    except OSError:
        with Reader(path) as reader:
            return next(iter(reader))


def _gradient(colors: tuple[str, ...]) -> Picture:
    """A vertical gradient with slightly darker corners."""
    width, height = DRAWN
    stops = np.array([list(bytes.fromhex(color[1:])) for color in colors], np.float64)
    rows = np.linspace(0, len(stops) - 1, height)
    column = np.stack([np.interp(rows, range(len(stops)), stop) for stop in stops.T], 1)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 - 0.09 * (x**2 + y**2) if len(colors) > 1 else np.ones((height, width))
    return np.asarray(column[:, None] * light[..., None] + 0.5, np.uint8)


def _bokeh() -> Picture:
    """The picture for the blur: lights out of focus."""
    width, height = DRAWN
    generator = np.random.default_rng(4)
    picture = _gradient(("#2b3350", "#4a4360")).astype(np.float32)
    for x, y, radius, red, green, blue in generator.random((24, 6)):
        light = np.zeros_like(picture)
        center, size = (int(x * width), int(y * height)), int(40 + 70 * radius)
        color = (150 + 90 * red, 90 + 90 * green, 60 + 120 * blue)
        cv2.circle(light, center, size, color, -1, cv2.LINE_AA)
        picture += 0.35 * light
    return np.asarray(np.clip(cv2.GaussianBlur(picture, (0, 0), 6), 0, 255), np.uint8)


def parse_blur(value: object) -> float:
    """Parses the slider's sigma.

    Raises:
        Refusal: it is not a number in range.
    """
    try:
        sigma = float(str(value))
    except ValueError:
        sigma = math.nan
    if not 0 < sigma <= MAX_BLUR:
        raise Refusal("bad_request", f"blur must be above 0 and at most {MAX_BLUR:g}")
    return sigma
