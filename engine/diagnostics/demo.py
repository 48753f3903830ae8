"""``fusematte demo``: a complete job without an input file and without a network connection.

The clip is made from scikit-image's portrait of the astronaut Eileen Collins (NASA, public
domain), filmed by a slowly moving camera; the new background is Hubble's deep field (NASA, public
domain).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.errors import OutputError, UsageError, reason_of
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.single import Progress, Report, run_once
from fusematte.engine.media.files import make_folder, write_png
from fusematte.engine.media.reader import Reader
from fusematte.engine.pixels.fit import thumbnail

Picture = NDArray[np.uint8]

WIDTH, HEIGHT, RATE, SECONDS = 480, 480, 25, 4
FACE = 0.45, 0.3
"""Centre of the camera's view, as shares of the portrait's width and height."""
SHEET_COLUMNS, SHEET_WIDTH = 5, 256


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The files of a demo, and the job's report."""

    clip: Path
    composite: Path
    alpha: Path
    sheet: Path
    report: Report


def run_demo(folder: Path, progress: Progress | None = None) -> Demo:
    """Makes the clip, mattes it, and writes composite, alpha and a contact sheet into ``folder``.

    Raises:
        UsageError: scikit-image, which provides the pictures, is not installed.
        OutputError: the folder cannot be written.
    """
    portrait, sky = load_pictures()
    make_folder(folder)
    clip, background = folder / "clip.mp4", folder / "background.png"
    composite, alpha, sheet = (
        folder / name for name in ("composite.mp4", "alpha.mp4", "contact-sheet.png")
    )
    write_png(background, sky)
    _write_clip(clip, camera_moves(portrait))
    options = JobOptions(background=background, alpha_output=alpha)
    report = run_once(clip, composite, options, progress=progress)
    write_png(sheet, contact_sheet([clip, composite, alpha]))
    return Demo(clip=clip, composite=composite, alpha=alpha, sheet=sheet, report=report)


def load_pictures() -> tuple[Picture, Picture]:
    try:
        from skimage import data
    except ImportError as error:
        raise UsageError(
            "the demo needs scikit-image", remedy="pip install 'fusematte[demo]'"
        ) from error
    return data.astronaut(), data.hubble_deep_field()


def camera_moves(portrait: Picture) -> Iterator[Picture]:
    """The portrait as a hand-held camera sees it: drifting, zooming and swaying a little."""
    side = portrait.shape[0]
    for index in range(RATE * SECONDS):
        phase = 2 * math.pi * index / (RATE * SECONDS)
        zoom = WIDTH / side * (1.65 + 0.08 * math.cos(phase))
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), 1.5 * math.sin(2 * phase), zoom)
        matrix[0, 2] += WIDTH / 2 - side / 2 + zoom * side * (0.5 - FACE[0]) + 12 * math.sin(phase)
        matrix[1, 2] += HEIGHT / 2 - side / 2 + zoom * side * (0.5 - FACE[1]) + 5 * math.cos(phase)
        moved = cv2.warpAffine(
            portrait, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        yield np.asarray(moved, np.uint8)


def _write_clip(path: Path, pictures: Iterator[Picture]) -> None:
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"crf": "16"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode(None))
    except OSError as error:
        raise OutputError.at(path, f"cannot be written: {reason_of(error)}") from error


def contact_sheet(videos: list[Path]) -> Picture:
    """A row of pictures from each video, at the same times: [H, W, 3], RGB, uint8."""
    return np.vstack([np.hstack(_thumbnails(video)) for video in videos])


def _thumbnails(video: Path) -> list[Picture]:
    with Reader(video) as reader:
        total = reader.frame_count or SHEET_COLUMNS
        wanted = {round((column + 0.5) * total / SHEET_COLUMNS) for column in range(SHEET_COLUMNS)}
        frames = (frame for index, frame in enumerate(reader) if index in wanted)
        return [thumbnail(frame, SHEET_WIDTH) for frame in frames]
