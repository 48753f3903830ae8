"""Single files: pictures read and written whole, and the name of what is not complete yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from os import PathLike
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.errors import OutputError


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


def part_of(path: Path) -> Path:
    """The name of an output, file or folder, while it is written."""
    return path.with_name(f"{path.name}.part")


class Unfinished(ABC):
    """An output that appears under its name when it is complete.

    As a context manager it closes itself; leaving by an exception abandons it.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    @abstractmethod
    def close(self) -> None:
        """Completes it and gives it its name."""

    @abstractmethod
    def abandon(self) -> None:
        """Leaves what there is of it under the name of ``part_of``."""


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file, which appears under its name whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    partial = part_of(path)
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes a gray [H, W] or RGB [H, W, 3] picture, uint8, as ``write_whole`` does.

    Raises:
        OutputError: it cannot be written.
    """
    ordered = picture if picture.ndim == 2 else picture[..., ::-1]
    _, data = cv2.imencode(".png", ordered)
    write_whole(path, data.tobytes())


def jpeg(picture: NDArray[np.uint8], quality: int = 80) -> bytes:
    """An RGB picture [H, W, 3], uint8, as JPEG; quality: 0 to 100."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()
