"""Writes HEIC and AVIF photos as cameras do: a grid of tiles, turned and mirrored by properties."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.media.svt_av1 import tamed

ENCODERS = {"heic": ("libx265", b"hvc1", b"hvcC"), "avif": ("libsvtav1", b"av01", b"av1C")}
"""Encoder, kind of the items, and the box that describes them."""

ESSENTIAL = 0x80


def photo(
    picture: NDArray[np.uint8],
    brand: str,
    *,
    tile: tuple[int, int] | None = None,
    quarter_turns: int = 0,
    mirror: int | None = None,
    claims: tuple[int, int] | None = None,
) -> bytes:
    """A photo of an RGB picture [H, W, 3].

    brand: heic or avif.
    tile: height and width of the tiles; None for one picture.
    quarter_turns, mirror: the properties irot and imir.
    claims: width and height that the header claims; None for those of the picture.
    """
    height, width = picture.shape[:2]
    high, wide = tile or (height, width)
    tiles = [
        picture[top : top + high, left : left + wide]
        for top in range(0, height, high)
        for left in range(0, width, wide)
    ]
    coded = [_encoded(part, brand) for part in tiles]
    _, kind, _ = ENCODERS[brand]
    items = [(kind, data) for data, _ in coded]
    if tile:
        grid = struct.pack(">BBBBHH", 0, 0, height // high - 1, width // wide - 1, width, height)
        items.append((b"grid", grid))
    primary = len(items)
    whole = claims or (width, height)
    properties = [
        coded[0][1],
        _box(b"ispe", struct.pack(">III", 0, wide, high)),
        _box(b"ispe", struct.pack(">III", 0, *whole)),
        _full(b"pixi", bytes([3, 8, 8, 8])),
        _box(b"irot", bytes([quarter_turns])),
    ]
    shown = [3, 4, 5 | ESSENTIAL] if tile else [1 | ESSENTIAL, 3, 4, 5 | ESSENTIAL]
    if mirror is not None:
        properties.append(_box(b"imir", bytes([mirror])))
        shown.append(6 | ESSENTIAL)
    owners = {number: [1 | ESSENTIAL, 2, 4] for number in range(1, len(items) + 1)} | {
        primary: shown
    }
    return _file(brand, items, primary, properties, owners, grid=bool(tile))


def _encoded(picture: NDArray[np.uint8], brand: str) -> tuple[bytes, bytes]:
    """A coded picture, and the box that describes it: those of an MP4 with one frame."""
    codec, _, described = ENCODERS[brand]
    options = {"x265-params": "log-level=none"} if brand == "heic" else {}
    file = io.BytesIO()
    with tamed(), av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=1, options=options)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt, stream.codec_tag = "yuv420p", {"heic": "hvc1", "avif": "av01"}[brand]
        stream.codec_context.color_range = 2
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_color_range=2)
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            packet.pts = packet.dts = 0
            container.mux(packet)
    data = file.getvalue()
    at = data.index(described) - 4
    (size,) = struct.unpack_from(">I", data, at)
    media = data.index(b"mdat") - 4
    (length,) = struct.unpack_from(">I", data, media)
    return data[media + 8 : media + length], data[at : at + size]


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def _full(name: bytes, content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", version << 24 | flags) + content)


def _file(
    brand: str,
    items: list[tuple[bytes, bytes]],
    primary: int,
    properties: list[bytes],
    owners: dict[int, list[int]],
    *,
    grid: bool,
) -> bytes:
    start = _box(b"ftyp", brand.encode() + bytes(4) + b"mif1" + brand.encode() + b"miaf")
    handler = _full(b"hdlr", bytes(4) + b"pict" + bytes(13))
    entries = b"".join(
        _full(b"infe", struct.pack(">HH4s", number, 0, kind) + b"\0", version=2)
        for number, (kind, _) in enumerate(items, 1)
    )
    names = _full(b"iinf", struct.pack(">H", len(items)) + entries)
    tiles = struct.pack(f">HH{primary - 1}H", primary, primary - 1, *range(1, primary))
    references = _full(b"iref", _box(b"dimg", tiles)) if grid else b""
    owned = b"".join(
        struct.pack(">HB", number, len(found)) + bytes(found) for number, found in owners.items()
    )
    described = _box(b"ipco", b"".join(properties)) + _full(
        b"ipma", struct.pack(">I", len(owners)) + owned
    )
    rest = [handler, _full(b"pitm", struct.pack(">H", primary)), names, references]
    rest.append(_box(b"iprp", described))

    def located(media: int) -> bytes:
        places, at = b"", media
        for number, (_, data) in enumerate(items, 1):
            places += struct.pack(">HHHII", number, 0, 1, at, len(data))
            at += len(data)
        places = _full(b"iloc", bytes([0x44, 0]) + struct.pack(">H", len(items)) + places)
        return _full(b"meta", b"".join([*rest, places]))

    head = start + located(len(start) + len(located(0)) + 8)
    return head + _box(b"mdat", b"".join(data for _, data in items))
