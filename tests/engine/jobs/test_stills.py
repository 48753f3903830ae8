"""Mattes of still pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import animation, peak_memory

from fusematte.engine.errors import InputError, OutputError, UsageError
from fusematte.engine.jobs.stills import output_paths, read_picture
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import refine
from fusematte.engine.matting.stills import matte_picture
from fusematte.engine.media.av_frames import rgb_of
from fusematte.engine.media.files import read_image, write_png
from fusematte.engine.media.reader import Reader
from fusematte.engine.models import Bundle
from fusematte.engine.pixels.color import frame_from_rgb


@pytest.fixture(scope="module")
def matter(small_model: str) -> Iterator[Matter]:
    with Matter(small_model) as made:
        yield made


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """An RGB picture with another colour in each corner."""
    y, x = np.mgrid[:height, :width]
    red, green = 255 * x // max(1, width - 1), 255 * y // max(1, height - 1)
    return np.dstack([red, green, 255 - red]).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("size", [(1, 1), (37, 61)])
def test_alpha_has_the_pictures_own_size(
    matter: Matter, tmp_path: Path, suffix: str, size: tuple[int, int]
) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), gradient(*size))
    alpha = matte_picture(read_picture(path), matter)
    assert (alpha.shape, alpha.dtype) == (size, np.uint8)


def test_of_an_animation_the_first_picture_is_read_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in (".gif", ".png", ".webp"):
        path = animation(tmp_path / f"a{suffix}", ((200, 0, 0), (0, 0, 200)))
        assert (read_picture(path)[..., 0] > 150).all()
        assert f"{path}: is animated: only its first picture is read" in caplog.text


def test_pictures_do_not_remember_one_another(matter: Matter, tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    write_png(first, gradient(48, 64))
    write_png(second, 255 - gradient(48, 64))
    alone = matte_picture(read_picture(second), matter)
    matte_picture(read_picture(first), matter)
    np.testing.assert_array_equal(matte_picture(read_picture(second), matter), alone)


def test_where_an_engine_has_one_size_one_look_is_all(
    matter: Matter, shared_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Reader(shared_clips / "m1.mp4") as reader:
        picture = rgb_of(next(iter(reader)))
    frame = frame_from_rgb(picture)
    height, width = matter.size_for(frame)
    monkeypatch.setattr(
        Bundle, "takes", lambda _, rows, columns: (rows, columns) == (height, width)
    )
    found = matte_picture(picture, matter)
    matter.reset()
    np.testing.assert_array_equal(found, refine(frame, matter(frame)))


@pytest.mark.parametrize("picture", [gradient(5, 7), gradient(5, 7)[..., 0]], ids=["rgb", "gray"])
def test_write_png_is_lossless(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    path = tmp_path / "a.png"
    write_png(path, picture)
    expected = picture if picture.ndim == 3 else np.dstack([picture] * 3)
    np.testing.assert_array_equal(read_image(path), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_write_png_names_the_file_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"missing.*a\.png"):
        write_png(tmp_path / "missing" / "a.png", gradient(2, 2))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=r"folder\.png"):
        write_png(tmp_path / "folder.png", gradient(2, 2))
    assert [file.name for file in tmp_path.iterdir()] == ["folder.png"]  # and no .part


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF segment of one entry: tag 0x0112, a short."""
    entry = bytes([0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0])
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


@pytest.mark.parametrize(
    ("orientation", "quarter_turns"),
    # EXIF 2.32: 1 upright, 3 upside down, 6 to be turned clockwise by 90 degrees, 8 by 270.
    [(1, 0), (3, 2), (6, -1), (8, 1)],
)
def test_read_image_turns_as_exif_says(
    tmp_path: Path, orientation: int, quarter_turns: int
) -> None:
    _, data = cv2.imencode(".jpg", gradient(32, 48)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    path = tmp_path / "a.jpg"
    path.write_bytes(with_orientation(data.tobytes(), orientation))
    expected = np.rot90(gradient(32, 48), quarter_turns).astype(int)
    got = read_image(path)
    assert got.shape == expected.shape
    assert np.abs(got - expected).mean() < 4


def test_read_image_of_gray_and_of_transparent_pictures(tmp_path: Path) -> None:
    gray = gradient(6, 8)[..., 0]
    cv2.imwrite(str(tmp_path / "gray.png"), gray)
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.dstack([gray] * 3))
    rgba = np.dstack([gradient(6, 8)[..., ::-1], gray])
    cv2.imwrite(str(tmp_path / "rgba.png"), rgba)
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), gradient(6, 8))


@pytest.mark.parametrize("content", [None, b"", b"just text", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_picture(matter: Matter, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png: \S+") as caught:
        matte_picture(read_picture(path), matter)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_picture(matter: Matter, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=tmp_path.name):
        matte_picture(read_picture(tmp_path), matter)


@pytest.mark.slow
def test_a_large_photo_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    photo = tmp_path / "large.jpg"
    cv2.imwrite(str(photo), np.full((9000, 12000, 3), 90, np.uint8))
    command = [sys.executable, "-m", "fusematte", "matte", "-q", photo, "-o", tmp_path]
    assert peak_memory([*command, "--threads", 1, "--backend", "openvino:cpu:f32"]) < 1 << 30


def test_output_paths_take_the_stems(tmp_path: Path) -> None:
    paths = output_paths(["x/a.jpg", "b.b.webp"], tmp_path)
    assert paths == [tmp_path / "a.png", tmp_path / "b.b.png"]


def test_output_paths_that_collide(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.png"):
        output_paths(["x/a.jpg", "b.jpg", "y/a.webp"], tmp_path)


def test_output_over_its_own_source(tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    write_png(source, gradient(2, 2))
    with pytest.raises(UsageError, match=r"a\.png"):
        output_paths([str(source)], tmp_path)
    assert output_paths([str(source)], tmp_path / "other") == [tmp_path / "other" / "a.png"]
