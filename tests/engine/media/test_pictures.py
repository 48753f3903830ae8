"""Pictures of strangers: too large, animated, with a palette, in tiles, turned."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from tests.helpers import animation, matte_of, picture
from tests.media.corpus import with_orientation
from tests.media.heif import photo

from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.errors import BackgroundError, InputError
from fusematte.engine.frame import Frame
from fusematte.engine.jobs.stills import read_picture
from fusematte.engine.media.files import (
    decode_image,
    is_animated,
    is_played_as_video,
    read_image,
)
from fusematte.engine.media.reader import Reader
from fusematte.engine.pixels.color import frame_from_rgb


def png(path: Path, width: int, height: int, *, bits: int = 8, kind: int = 0) -> Path:
    """A PNG of zeros: a few bytes, whatever its size."""
    channels = {0: 1, 2: 3, 3: 1}[kind]
    row = bytes(1 + (width * channels * bits + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(
        packer.compress(row * min(1000, height - top)) for top in range(0, height, 1000)
    )
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data + packer.flush()), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize(("width", "height"), [(1, 100_000), (40_000, 2), (30_000, 30_000)])
def test_pictures_that_are_too_large(tmp_path: Path, width: int, height: int) -> None:
    path = png(tmp_path / "large.png", width, height, bits=1)
    before = psutil.Process().memory_info().rss
    for read, error in ((read_picture, InputError), (open_background, BackgroundError)):
        with pytest.raises(error, match="pixels are too many"):
            read(path)
    with pytest.raises(InputError, match=r"pixels are too many|no decodable picture"):
        Reader(path)
    assert psutil.Process().memory_info().rss - before < 100 << 20


def test_a_tall_background_is_cropped_before_it_is_scaled(tmp_path: Path) -> None:
    path = png(tmp_path / "tall.png", 1, 30_000)
    frame = frame_from_rgb(picture(64, 48, 0))
    before = psutil.Process().memory_info().rss
    shown = open_background(path).render(frame, matte_of(frame, np.ones((8, 8), np.float32)))
    assert np.asarray(shown[0]).shape == (48, 64)
    assert psutil.Process().memory_info().rss - before < 100 << 20


def quarters() -> NDArray[np.uint8]:
    """Red, green, blue and white quarters, 128 high and 192 wide."""
    corners = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)
    return corners.repeat(64, axis=0).repeat(96, axis=1)


TURNS = [(0, None), (1, None), (3, None), (0, 0), (1, 1)]


@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize(("quarter_turns", "mirror"), TURNS)
@pytest.mark.parametrize("brand", ["heic", "avif"])
def test_photos_are_whole_and_upright(
    brand: str,
    quarter_turns: int,
    mirror: int | None,
    tile: tuple[int, int] | None,
    tmp_path: Path,
) -> None:
    if brand == "heic":
        pytest.importorskip("pillow_heif")
    path = tmp_path / f"photo.{brand}"
    path.write_bytes(
        photo(quarters(), brand, tile=tile, quarter_turns=quarter_turns, mirror=mirror)
    )
    shown = np.rot90(quarters(), quarter_turns)
    shown = shown if mirror is None else np.flip(shown, mirror)
    for read in (read_picture(path), read_image(path, opaque=True)):
        assert read.shape == shown.shape
        # The sharp corners of colour are smeared by half of the chroma's resolution.
        assert np.median(np.abs(read.astype(int) - shown)) <= 2
    open_background(path).close()
    if tile is None:
        with Reader(path) as reader:
            (frame,) = reader
        assert frame.rotation == -90 * quarter_turns % 360
    else:  # libav would read one of its tiles
        with pytest.raises(InputError, match="is a photo in tiles"):
            Reader(path)


def test_heic_without_its_extra_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(photo(quarters(), "heic"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for read, error in ((read_picture, InputError), (open_background, BackgroundError)):
        with pytest.raises(error, match=r"pip install 'fusematte\[heic\]'; or save it as JPEG"):
            read(path)


@pytest.mark.parametrize("brand", ["heic", "avif"])
def test_photos_that_are_too_large_or_damaged(tmp_path: Path, brand: str) -> None:
    path = tmp_path / f"photo.{brand}"
    whole = photo(quarters(), brand, tile=(64, 64), claims=(60_000, 60_000))
    for data, reason in ((whole, "pixels are too many"), (whole[:300], "boxes are damaged")):
        path.write_bytes(data)
        for read, error in ((read_picture, InputError), (open_background, BackgroundError)):
            with pytest.raises(error, match=reason):
                read(path)


def test_a_transparent_avif_of_ten_bits(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.avif", np.full((32, 32, 4), 1023, np.uint16)
    pixels[16:, :, 3] = 0
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_AVIF_DEPTH, 10])
    assert read_image(path).min() >= 250
    over_black = read_image(path, opaque=True)
    assert over_black[:16].min() >= 250 and over_black[16:].max() <= 4


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif"])
def test_an_animated_background_moves_and_loops(tmp_path: Path, suffix: str) -> None:
    path = animation(tmp_path / f"a{suffix}")
    assert is_animated(path) or is_played_as_video(path)
    background = open_background(path)
    seen = []
    for index in range(12):
        frame = frame_from_rgb(picture(64, 48, 0))
        timed = Frame(planes=frame.planes, format=frame.format, color=frame.color, pts=index * 9000)
        shown = background.render(timed, matte_of(timed, np.ones((8, 8), np.float32)))
        seen.append("red" if np.mean(np.asarray(shown[2])) > 150 else "blue")
    assert seen == ["red", "red", "blue", "blue"] * 3


def test_a_still_picture_is_not_animated(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg", ".webp"):
        cv2.imwrite(str(tmp_path / f"a{suffix}"), picture(64, 48, 0))
        assert not is_animated(tmp_path / f"a{suffix}")


def palette_png(path: Path) -> Path:
    """A palette of two: opaque white above, transparent red below."""
    rows = b"".join(b"\0" + bytes([row // 8]) * 16 for row in range(16))
    header = struct.pack(">IIBBBBB", 16, 16, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header), (b"PLTE", b"\xff\xff\xff\xff\0\0"), (b"tRNS", b"\xff\0"),
        (b"IDAT", zlib.compress(rows)), (b"IEND", b""),
    ]  # fmt: skip
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))
    return path


def test_a_palette_keeps_its_transparency(tmp_path: Path) -> None:
    path = palette_png(tmp_path / "a.png")
    read = read_image(path, opaque=True)
    assert (read[:8] == 255).all() and (read[8:] == 0).all()
    with Reader(path) as reader:
        assert reader.has_alpha
        (frame,) = reader
    assert frame.alpha is not None
    assert (frame.alpha[:8] == 255).all() and (frame.alpha[8:] == 0).all()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_folder_whose_pictures_say_how_to_turn_them(tmp_path: Path, orientation: int) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(2):
        path = folder / f"{index}.jpg"
        cv2.imwrite(str(path), picture(64, 48, index)[..., ::-1])
        path.write_bytes(with_orientation(path.read_bytes(), orientation))
    upright = cv2.cvtColor(read_image(folder / "0.jpg"), cv2.COLOR_RGB2GRAY).astype(float)
    with Reader(folder) as reader:
        frame = next(iter(reader))
    turned = np.rot90(frame.planes[0].astype(float), -frame.rotation // 90)
    assert turned.shape == upright.shape
    assert np.corrcoef(turned.ravel(), upright.ravel())[0, 1] > 0.99


def test_the_planes_of_a_picture_do_not_depend_on_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = frame_from_rgb(picture(64, 48, 3))
    monkeypatch.setattr("fusematte.engine.pixels.color.STRIP", 200)
    for plane, other in zip(whole.planes, frame_from_rgb(picture(64, 48, 3)).planes, strict=True):
        np.testing.assert_array_equal(plane, other)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_transparent_pictures_are_upright(suffix: str, orientation: int) -> None:
    """As OpenCV rotates them without their alpha."""
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    shown = np.dstack([picture(24, 16, 3), np.full((16, 24), 255, np.uint8)])
    shown[:2, :4, 3] = 0
    kinds, metadata = [int(cv2.IMAGE_METADATA_EXIF)], [np.frombuffer(exif, np.uint8)]
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    _, encoded = cv2.imencodeWithMetadata(suffix, shown, kinds, metadata, lossless)
    opaque = decode_image(encoded.tobytes(), opaque=True)
    colors = decode_image(encoded.tobytes())
    assert opaque.shape == colors.shape
    visible = opaque.any(axis=2)
    assert np.array_equal(opaque[visible], colors[visible])
    assert visible.sum() >= 24 * 16 - 8 and not visible.all()
