"""Reading and writing of picture files, and the naming of unfinished outputs."""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.errors import OutputError, reason_of
from fusematte.engine.media.heif import decode_heic, is_animation, is_heif, read_photo_header
from fusematte.engine.media.picture_header import check_size, read_header

MOST_BYTES = 1 << 28
"""Larger files are no pictures, but videos."""
_ORIENTATION = 0x112
"""The tag of the orientation in EXIF."""


def read_image(path: str | PathLike[str], *, opaque: bool = False) -> NDArray[np.uint8]:
    """Reads a picture as RGB, rotated by its EXIF orientation: [H, W, 3], uint8.

    Of an animation, the first picture is read.

    opaque: composite transparent pixels over black; otherwise they keep the colours in the file.

    Raises:
        OSError: it cannot be read, is not a picture that OpenCV supports, or is too large.
    """
    return decode_image(Path(path).read_bytes(), opaque=opaque)


def decode_image(encoded: bytes, *, opaque: bool = False) -> NDArray[np.uint8]:
    """Decodes the bytes of a picture file as ``read_image`` does.

    Raises:
        OSError: as ``read_image``.
    """
    header = read_header(encoded)
    check_size(header.width, header.height)
    if is_heif(encoded):
        return _decode_photo(encoded, opaque=opaque)
    if header.alpha and opaque:  # OpenCV rotates only what it decodes without alpha
        return _rgb(_upright(_decode(encoded, cv2.IMREAD_UNCHANGED), *_turns(encoded)))
    return np.asarray(_decode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)


def _upright(
    picture: NDArray[np.uint8], quarter_turns: int, mirror: int | None
) -> NDArray[np.uint8]:
    """A decoded picture as it is shown: rotated anticlockwise, then mirrored along an axis."""
    turned = np.rot90(picture, quarter_turns)
    return np.ascontiguousarray(turned if mirror is None else np.flip(turned, mirror))


def _turns(encoded: bytes) -> tuple[int, int | None]:
    """Quarter turns and mirrored axis of a PNG or WebP, by its EXIF orientation."""
    orientation = _orientation(encoded)
    quarter_turns = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)
    return quarter_turns, 1 if orientation in (2, 4, 5, 7) else None


def _orientation(encoded: bytes) -> int:
    """The EXIF orientation of a PNG or WebP; 1 without one."""
    at = max(encoded.find(b"eXIf"), encoded.find(b"EXIF"))
    begin = min(
        (i for i in (encoded.find(m, at) for m in (b"II*\0", b"MM\0*")) if i >= 0), default=-1
    )
    if at < 0 or not 0 <= begin - at <= 16:
        return 1
    exif = encoded[begin:]
    order = "<" if exif.startswith(b"II") else ">"
    try:
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:
        pass
    return 1


def _decode_photo(encoded: bytes, *, opaque: bool) -> NDArray[np.uint8]:
    photo = read_photo_header(encoded)
    if not photo.width:
        raise OSError("not a readable photo: its boxes are damaged")
    if not photo.bits:
        return _rgb(decode_heic(encoded, opaque=opaque))
    if photo.alpha and opaque:
        unscaled = _decode(encoded, cv2.IMREAD_UNCHANGED)
        picture = _rgb(np.asarray(unscaled >> (photo.bits - 8), np.uint8))
    else:
        picture = _decode(encoded, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    return _upright(picture, photo.quarter_turns, photo.mirror)


def _decode(encoded: bytes, flags: int) -> NDArray[Any]:
    """Decodes a picture with OpenCV.

    Raises:
        OSError: as ``read_image``.
    """
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    except (cv2.error, MemoryError) as error:
        raise OSError("not a readable picture, or too large") from error
    if picture is None:
        raise OSError("not a picture in a supported format")
    return picture


def read_animation(path: str | PathLike[str]) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Reads the pictures of an animation as RGB, [H, W, 3], uint8, and their durations in ms.

    Raises:
        OSError: it is not an animation that OpenCV supports, or is too large.
    """
    encoded = Path(path).read_bytes()
    header = read_header(encoded)
    check_size(header.width, header.height * header.frames)
    try:
        done, animation = cv2.imdecodeanimation(np.frombuffer(encoded, np.uint8))
    except (cv2.error, MemoryError) as error:
        raise OSError("not a readable animation, or too large") from error
    if not done or not len(animation.frames):
        raise OSError("not an animation in a supported format")
    # Browsers show pictures with a duration near zero for a tenth of a second.
    durations = [time if time > 10 else 100 for time in map(int, animation.durations)]
    return [_rgb(picture) for picture in animation.frames], durations


def is_animated(path: str | PathLike[str]) -> bool:
    """Whether a file is a GIF, APNG or WebP with more than one picture."""
    return read_header(Path(path).read_bytes()).frames > 1


def is_played_as_video(path: str | PathLike[str]) -> bool:
    """Whether libav should read it: a file too large to be read whole, or an animated AVIF."""
    with Path(path).open("rb") as file:
        return Path(path).stat().st_size > MOST_BYTES or is_animation(file.read(12))


def is_known_picture(path: str | PathLike[str]) -> bool:
    """Whether a file begins like a picture of a format that ``read_header`` knows, or HEIF."""
    encoded = Path(path).read_bytes()
    return read_header(encoded).width > 0 or is_heif(encoded)


def _rgb(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """An OpenCV picture (gray, BGR or BGRA; 8 or 16 bits) as RGB over black."""
    if picture.dtype == np.uint16:
        picture = (picture >> 8).astype(np.uint8)
    if picture.ndim == 2 or picture.shape[2] == 1:
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB), np.uint8)
    if picture.shape[2] == 4:
        opacity = picture[..., 3:].astype(np.uint16)
        picture = ((picture[..., :3] * opacity + 127) // 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture), np.uint8)


def part_of(path: Path) -> Path:
    """The name of an output, file or folder, until it is complete."""
    return path.with_name(f"{path.name}.part")


LONGEST_NAME = 255 - len(".part")
"""Bytes of an output's name: most file systems allow 255."""


def check_name(path: Path) -> None:
    """Checks that an output's name leaves room for ``.part``.

    Raises:
        OutputError: it is too long.
    """
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise OutputError.at(
            path, "the file name is too long", remedy=f"use at most {LONGEST_NAME} bytes"
        )


def make_folder(path: Path) -> Path:
    """Creates a folder and its parents, unless it exists; returns it.

    Raises:
        OutputError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.at(path, f"cannot be created: {reason_of(error)}") from error
    return path


def is_folder(path: Path) -> bool:
    """Whether a folder exists; False for names that are too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


class Unfinished(ABC):
    """An output that only gets its name when it is complete.

    As a context manager it is closed at the end, or abandoned after an exception.
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
        """Completes the output and gives it its name."""

    @abstractmethod
    def abandon(self) -> None:
        """Leaves the unfinished output under its ``part_of`` name."""


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file atomically.

    Raises:
        OutputError: it cannot be written.
    """
    partial = part_of(path)
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError.at(path, f"cannot be written: {reason_of(error)}") from error


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes a gray [H, W], RGB or RGBA [H, W, 3 or 4] picture, uint8, as ``write_whole`` does.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(path, encode_image(picture, ".png"))


def encode_image(picture: NDArray[np.uint8], suffix: str, parameters: Sequence[int] = ()) -> bytes:
    """Encodes a gray [H, W], RGB or RGBA [H, W, 3 or 4] picture, uint8.

    suffix: of the format, as in ``.png``; parameters: OpenCV's encoder parameters.
    """
    if picture.ndim == 3:
        order = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
        picture = np.asarray(cv2.cvtColor(picture, order), np.uint8)
    _, data = cv2.imencode(suffix, picture, parameters)
    return data.tobytes()


def jpeg(picture: NDArray[np.uint8], quality: int = 80) -> bytes:
    """An RGB picture [H, W, 3], uint8, as JPEG; quality: 0 to 100."""
    return encode_image(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
