"""HEIC and AVIF photos: what their boxes say (ISO/IEC 23008-12), and the decoding of HEIC.

Such a file holds items (pictures, tiles, thumbnails) and properties that are associated with them.
The primary item is the photo; it may be a grid of tiles, which libav does not join.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_PHOTOS = (b"mif1", b"heic", b"heix", b"heim", b"heis", b"avif")
SEQUENCES = (b"msf1", b"hevc", b"hevx", b"avis")
"""Brands of photos and of animations."""


class Photo(NamedTuple):
    """The primary item of a photo.

    width, height: in pixels, before it is turned.
    quarter_turns: anticlockwise, before it is mirrored.
    mirror: the axis of NumPy that is reversed; None for none.
    tiles: whether it is a grid of tiles.
    alpha: whether there may be a plane of alpha.
    bits: of an AVIF's samples; 0 for HEIC.
    """

    width: int = 0
    height: int = 0
    quarter_turns: int = 0
    mirror: int | None = None
    tiles: bool = False
    alpha: bool = False
    bits: int = 0


def is_heif(data: bytes) -> bool:
    """Whether a file begins as a HEIC or AVIF photo or animation."""
    return data[4:8] == b"ftyp" and data[8:12] in _PHOTOS + SEQUENCES


def is_animation(data: bytes) -> bool:
    """Whether a file begins as an animation of these formats, which libav reads as a video."""
    return data[4:8] == b"ftyp" and data[8:12] in SEQUENCES


def read_photo_header(data: bytes) -> Photo:
    """What the boxes of a photo say; an empty one if they are damaged."""
    try:
        return _primary(data)
    except (struct.error, IndexError, KeyError):
        return Photo()


def decode_heic(data: bytes, *, opaque: bool) -> NDArray[Any]:
    """Decodes a HEIC photo as it is to be shown, in OpenCV's layout: gray, BGR or BGRA.

    opaque: keep alpha, with which the caller composites the picture over black.

    Raises:
        OSError: pillow-heif is not installed, or cannot read it.
    """
    try:
        import pillow_heif
    except ImportError:
        raise OSError(
            "HEIC photos need pillow-heif: pip install 'fusematte[heic]'; or save it as JPEG or PNG"
        ) from None
    try:
        picture = np.asarray(pillow_heif.open_heif(io.BytesIO(data), bgr_mode=True))
    except (ValueError, EOFError, SyntaxError, RuntimeError) as error:
        raise OSError(f"not a readable HEIC photo: {error}") from error
    if picture.ndim == 3 and picture.shape[2] == 2:  # gray with alpha
        picture = picture[..., [0, 0, 0, 1]]
    return np.array(picture if opaque or picture.ndim < 3 else picture[..., :3])


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes in a box's content: name and content."""
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        size = size or len(data) - at  # 0: up to the end
        if size < head:
            return
        yield name, data[at + head : at + size]
        at += size


def _primary(data: bytes) -> Photo:
    meta = dict(_boxes(dict(_boxes(data))[b"meta"][4:]))
    wide = meta[b"pitm"][0] > 0
    (item,) = struct.unpack_from(">I" if wide else ">H", meta[b"pitm"], 4)
    properties = dict(_boxes(meta[b"iprp"]))
    every = list(_boxes(properties[b"ipco"]))
    own = dict(every[index - 1] for index in _associated(properties[b"ipma"], item))
    width, height = struct.unpack_from(">II", own[b"ispe"], 4)
    kind = _kinds(meta[b"iinf"]).get(item, b"")
    kinds = {name for name, _ in every}
    return Photo(
        width,
        height,
        own.get(b"irot", b"\0")[0] & 3,
        own[b"imir"][0] & 1 if b"imir" in own else None,
        tiles=kind == b"grid",
        alpha=b"auxC" in kinds,
        bits=_bits(dict(every).get(b"av1C")),
    )


def _bits(av1c: bytes | None) -> int:
    """The depth in a description of AV1, for which OpenCV does not scale."""
    if av1c is None:
        return 0
    return 8 + 2 * (av1c[2] >> 6 & 1) + 2 * (av1c[2] >> 5 & 1)


def _associated(ipma: bytes, wanted: int) -> list[int]:
    """The properties of an item, counted from one."""
    version, flags = ipma[0], ipma[3]
    (count,), at = struct.unpack_from(">I", ipma, 4), 8
    index, essential = (">H", 0x8000) if flags & 1 else (">B", 0x80)
    for _ in range(count):
        (item,) = struct.unpack_from(">I" if version else ">H", ipma, at)
        at += 4 if version else 2
        found = [
            struct.unpack_from(index, ipma, at + 1 + number * struct.calcsize(index))[0]
            for number in range(ipma[at])
        ]
        at += 1 + ipma[at] * struct.calcsize(index)
        if item == wanted:
            return [number & ~essential for number in found if number & ~essential]
    return []


def _kinds(iinf: bytes) -> dict[int, bytes]:
    """The kind of each item."""
    kinds = {}
    for name, entry in _boxes(iinf[6 if iinf[0] == 0 else 8 :]):
        if name == b"infe" and entry[0] >= 2:
            item, _, kind = struct.unpack_from(">HH4s" if entry[0] == 2 else ">IH4s", entry, 4)
            kinds[item] = kind
    return kinds
