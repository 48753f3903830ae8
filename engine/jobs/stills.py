"""Input and output files of ``fusematte matte``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.errors import InputError, UsageError, reason_of
from fusematte.engine.frame import Frame
from fusematte.engine.media.files import is_animated, read_image
from fusematte.engine.pixels.color import frame_from_rgb

log = logging.getLogger(__name__)


def read_picture(path: str | PathLike[str]) -> NDArray[np.uint8]:
    """A picture file as RGB: [H, W, 3], uint8; of an animation the first picture, with a warning.

    Raises:
        InputError: it cannot be read.
    """
    try:
        picture, animated = read_image(path), is_animated(path)
    except OSError as error:
        raise InputError.at(path, reason_of(error)) from error
    if animated:
        log.warning("%s: is animated: only its first picture is read", path)
    return picture


def read_frame(path: str | PathLike[str]) -> Frame:
    """A picture file as a frame, 4:4:4; of the RGB nothing stays in memory.

    Raises:
        InputError: it cannot be read.
    """
    return frame_from_rgb(read_picture(path))


def output_paths(images: Sequence[str], folder: Path) -> list[Path]:
    """``folder/<stem>.png`` for each picture.

    Raises:
        UsageError: two pictures would have the same output, or a picture would be overwritten.
    """
    paths = [folder / f"{Path(image).stem}.png" for image in images]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise UsageError.at(twice[0], "two pictures would be written there", remedy="rename one")
    for image, path in zip(images, paths, strict=True):
        if path.exists() and Path(image).exists() and path.samefile(image):
            raise UsageError.at(
                path, "would overwrite its own input", remedy="choose another folder"
            )
    return paths
