"""Mattes of still pictures: ``fusematte matte IMAGE... --output-dir DIR``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.compositing.composite import read_image
from fusematte.engine.errors import InputError, OutputError, UsageError
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import refine
from fusematte.engine.pixels.color import as_float, enlarge, frame_from_rgb

CLOSER = 1.6
"""Of the network's own area: a still picture has the time to be seen twice, as a video's frames
are and then in more detail."""


def matte_image(path: str | PathLike[str], matter: Matter) -> NDArray[np.uint8]:
    """The alpha of a picture, at the picture's own size: [H, W], uint8.

    Raises:
        InputError: it cannot be read.
    """
    return matte_picture(read_picture(path), matter)


def read_picture(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """A picture file as RGB: [H, W, 3], uint8.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_image(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def matte_picture(picture: NDArray[np.uint8], matter: Matter) -> NDArray[np.uint8]:
    """The alpha [H, W], uint8, of an RGB picture [H, W, 3] that follows no other: the mean of what
    the network says at its own size and at a larger one, unless an engine has no larger one."""
    frame = frame_from_rgb(picture)
    matter.reset()
    matte = matter(frame)
    with matter.at_scale(matter.scale * CLOSER):
        size = matter.size_for(frame)
        if size != matte.alpha.shape and matter.bundle.takes(*size):
            matter.reset()
            closer = matter(frame)
            mean = cv2.addWeighted(enlarge(matte.alpha, *size), 0.5, closer.alpha, 0.5, 0)
            matte = replace(closer, alpha=as_float(mean))
    return np.asarray(refine(frame, matte), np.uint8)


def output_paths(images: Sequence[str], folder: Path) -> list[Path]:
    """``folder/<stem>.png`` for each picture.

    Raises:
        UsageError: two pictures would have the same output, or one would be overwritten.
    """
    paths = [folder / f"{Path(image).stem}.png" for image in images]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]}: two of the pictures would be written there; rename one")
    for image, path in zip(images, paths, strict=True):
        if path.exists() and Path(image).exists() and path.samefile(image):
            raise UsageError(f"{path}: would be written over its own source; choose another folder")
    return paths


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes a gray or RGB picture; under ``path`` it appears whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    ordered = picture if picture.ndim == 2 else picture[..., ::-1]
    _, data = cv2.imencode(".png", ordered)
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.write_bytes(data.tobytes())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
