"""Pictures of strangers: too large, animated, with a palette, of kinds that cannot be read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from tests.helpers import matte_of, picture
from tests.media.corpus import with_orientation

from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.errors import BackgroundError, InputError
from fusematte.engine.frame import Frame
from fusematte.engine.jobs.stills import read_picture
from fusematte.engine.media.files import is_animated, read_image
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


def test_heic_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "photo.heic"
    path.write_bytes(struct.pack(">I4s4sI", 16, b"ftyp", b"heic", 0) + bytes(100))
    for read, error in (
        (read_picture, InputError), (open_background, BackgroundError), (Reader, InputError)
    ):  # fmt: skip
        with pytest.raises(error, match="HEIC photos cannot be read"):
            read(path)


def animation(path: Path, seconds: float = 0.2) -> Path:
    """Red, then blue."""
    frames = cv2.Animation()
    frames.frames = [np.full((48, 64, 3), color, np.uint8) for color in ((0, 0, 255), (255, 0, 0))]
    frames.durations = np.full(2, round(seconds * 1000), np.int32)
    assert cv2.imwriteanimation(str(path), frames)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_an_animated_background_moves_and_loops(tmp_path: Path, suffix: str) -> None:
    path = animation(tmp_path / f"a{suffix}")
    assert is_animated(path)
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
