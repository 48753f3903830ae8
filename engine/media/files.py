"""Single files: pictures read and written whole, and the name of what is not complete yet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    return decode_image(Path(path).read_bytes())


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """A picture file's bytes as ``read_image`` reads them.

    Raises:
        OSError: it is no picture that OpenCV knows.
    """
    codes = np.frombuffer(data, np.uint8)
    picture = cv2.imdecode(codes, cv2.IMREAD_COLOR) if codes.size else None
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
    """Writes a gray [H, W], RGB or RGBA [H, W, 3 or 4] picture, uint8, as ``write_whole`` does.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(path, encode_image(picture, ".png"))


def encode_image(picture: NDArray[np.uint8], suffix: str, parameters: Sequence[int] = ()) -> bytes:
    """A gray [H, W], RGB or RGBA [H, W, 3 or 4] picture, uint8, as a file's bytes.

    suffix: names the format; parameters: OpenCV's of it.
    """
    if picture.ndim == 3:
        order = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
        picture = np.asarray(cv2.cvtColor(picture, order), np.uint8)
    _, data = cv2.imencode(suffix, picture, parameters)
    return data.tobytes()


def jpeg(picture: NDArray[np.uint8], quality: int = 80) -> bytes:
    """An RGB picture [H, W, 3], uint8, as JPEG; quality: 0 to 100."""
    return encode_image(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
