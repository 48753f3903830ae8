"""Pictures go from the kernels to the encoder without a copy, in memory that is used again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from tests.helpers import make_clip, matte_of

from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.composite import compose
from fusematte.engine.frame import PIXEL_FORMATS, Frame, PixelFormat, Plane
from fusematte.engine.media.av_frames import new_picture
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.writer import Writer
from fusematte.engine.pixels import buffer_pool


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    buffer_pool.idle.clear()
    yield
    buffer_pool.idle.clear()


def frame_of(format: PixelFormat, height: int, width: int) -> Frame:
    shapes = format.shapes(height, width)
    y, u, v = (np.zeros(shape, format.dtype) for shape in shapes)
    return Frame(planes=(y, u, v), format=format)


def address(plane: Plane) -> int:
    return int(plane.ctypes.data)


@pytest.mark.parametrize("format", PIXEL_FORMATS.values(), ids=PIXEL_FORMATS)
def test_planes_have_the_frames_layout_and_do_not_overlap(format: PixelFormat) -> None:
    frame = frame_of(format, 37, 51)
    planes = buffer_pool.new_planes(frame)
    for index, (plane, like) in enumerate(zip(planes, frame.planes, strict=True)):
        assert (plane.shape, plane.dtype) == (like.shape, like.dtype)
        assert (
            address(plane) % buffer_pool.ALIGNMENT == plane.strides[0] % buffer_pool.ALIGNMENT == 0
        )
        plane[:] = index + 1
    for index, plane in enumerate(planes):
        assert (plane == index + 1).all()


def test_memory_comes_back_when_the_last_view_is_gone() -> None:
    frame = frame_of(PIXEL_FORMATS["yuv420p"], 36, 64)
    planes = buffer_pool.new_planes(frame)
    first, part = address(planes[0]), planes[2][3:, 5:]
    part[:] = 7
    del planes
    other = buffer_pool.new_planes(frame)
    other[2][:] = 9
    assert address(other[0]) != first and (part == 7).all()
    del part
    assert address(buffer_pool.new_planes(frame)[0]) == first


def test_another_size_gets_its_own_memory_and_the_pool_stays_small() -> None:
    small, large = (frame_of(PIXEL_FORMATS["yuv420p"], size, size) for size in (16, 64))
    held = [buffer_pool.new_planes(small) for _ in range(2 * buffer_pool.IDLE)]
    assert len({address(planes[0]) for planes in held}) == len(held)
    del held
    assert len(buffer_pool.idle) == buffer_pool.IDLE
    assert buffer_pool.new_planes(large)[0].shape == (64, 64)


@pytest.mark.parametrize("format", PIXEL_FORMATS.values(), ids=PIXEL_FORMATS)
def test_the_encoder_reads_pooled_planes_where_they_are(format: PixelFormat) -> None:
    planes = buffer_pool.new_planes(frame_of(format, 36, 52))
    picture = new_picture(planes, format.name)
    for plane, handed in zip(planes, picture.planes, strict=True):
        plane[:] = 11  # after the hand-over: only shared memory shows it
        assert handed.buffer_ptr == address(plane)
        assert np.frombuffer(handed, format.dtype)[0] == 11


def test_a_picture_keeps_its_memory_from_the_pool() -> None:
    frame = frame_of(PIXEL_FORMATS["yuv420p"], 36, 64)
    planes = buffer_pool.new_planes(frame)
    planes[0][:] = 3
    picture = new_picture(planes, "yuv420p")
    del planes
    buffer_pool.new_planes(frame)[0][:] = 9
    assert (picture.to_ndarray()[:36] == 3).all()


@pytest.mark.parametrize("size", [(36, 51), (35, 52)])
def test_planes_of_elsewhere_and_odd_sizes_are_copied(size: tuple[int, int]) -> None:
    frame = frame_of(PIXEL_FORMATS["yuv420p"], *size)
    for planes in (frame.planes, buffer_pool.new_planes(frame)):
        planes[0][:] = 5
        picture = new_picture(planes, "yuv420p")
        planes[0][:] = 6
        assert (np.frombuffer(picture.planes[0], np.uint8).reshape(size[0], -1)[:, 0] == 5).all()


def test_a_job_goes_round_in_a_few_pictures(tmp_path: Path) -> None:
    """Decoder output is seen as views; composites are encoded from where the kernel wrote them."""
    clip = make_clip(tmp_path / "clip.mp4", width=64, height=48, frames=30)
    seen = set()
    with Reader(clip) as reader, Writer(tmp_path / "out.mp4", like=reader) as writer:
        for frame in reader:
            assert not frame.planes[0].flags.owndata and not buffer_pool.is_leased(frame.planes)
            matte = matte_of(frame, np.full((12, 16), 0.5, np.float32))
            result = compose(frame, matte, open_background("green"), with_alpha=True)
            assert result.alpha is not None
            assert buffer_pool.is_leased((*result.frame.planes, result.alpha))
            seen.add(address(result.frame.planes[0]))
            writer.write(result.frame)
    assert len(seen) <= 3
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 30
