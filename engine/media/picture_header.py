"""Reads size, alpha and animation from the header of a picture file, without decoding it.

A file of a few hundred bytes can declare gigabytes of pixels, so the header is checked first.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from fusematte.engine.media.heif import is_heif, read_photo_header

MAX_SIDE = 32_767
"""Pixels: the limit of OpenCV's and libav's scalers."""
MAX_PIXELS = 1 << 27
"""Pixels of a whole picture: 134 million, 400 MB in RGB."""

_JPEG_ALONE = (0x01, *range(0xD0, 0xD9))
_JPEG_SIZES = tuple(set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC})


class Header(NamedTuple):
    """width, height: in pixels; 0 for unsupported formats.

    frames: more than 1 for an animation; not necessarily the exact number.
    alpha: whether pixels may be transparent.
    """

    width: int = 0
    height: int = 0
    frames: int = 1
    alpha: bool = False


def read_header(data: bytes) -> Header:
    """The header of a PNG, GIF, WebP, JPEG, BMP, HEIC or AVIF; an empty one for other or damaged
    files."""
    if is_heif(data):
        photo = read_photo_header(data)
        return Header(photo.width, photo.height, alpha=photo.alpha)
    readers = {b"\x89P": _png, b"GI": _gif, b"RI": _webp, b"\xff\xd8": _jpeg, b"BM": _bmp}
    try:
        return readers.get(data[:2], lambda _: Header())(data)
    except (struct.error, IndexError):
        return Header()


def check_size(width: int, height: int) -> None:
    """Checks a picture's size.

    Raises:
        OSError: a side or the whole picture is too large.
    """
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise OSError(
            f"{width}x{height} pixels are too many; scale it down to {MAX_SIDE} per side and "
            f"{MAX_PIXELS >> 20} million in all"
        )


def _png(data: bytes) -> Header:
    width, height, _, kind = struct.unpack_from(">IIBB", data, 16)
    alpha, frames, at = kind in (4, 6), 1, 8
    while (name := data[at + 4 : at + 8]) not in (b"IDAT", b"IEND", b""):
        alpha |= name == b"tRNS"
        if name == b"acTL":
            (frames,) = struct.unpack_from(">I", data, at + 8)
        at += 12 + struct.unpack_from(">I", data, at)[0]
    return Header(width, height, frames, alpha)


def _gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, frames = 13 + _table(flags), 0
    while data[at] != 0x3B and frames < 2:
        if data[at] == 0x21:
            at += 2
        else:
            frames += 1
            at += 11 + _table(data[at + 9])
        while data[at]:
            at += 1 + data[at]
        at += 1
    return Header(width, height, frames, alpha=True)


def _table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        return Header(width, height, data.count(b"ANMF") or 1, alpha=bool(data[20] & 0x10))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), alpha=bool(bits >> 28 & 1))
    width, height = struct.unpack_from("<HH", data, 26)
    return Header(width & 0x3FFF, height & 0x3FFF)


def _jpeg(data: bytes) -> Header:
    at = 2
    while True:
        marker = data[at + 1]
        if data[at] != 0xFF:
            return Header()
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header(width, height)
        at += 2 if marker in _JPEG_ALONE else 2 + struct.unpack_from(">H", data, at + 2)[0]


def _bmp(data: bytes) -> Header:
    width, height = struct.unpack_from("<ii", data, 18)
    return Header(abs(width), abs(height))
