"""Pictures in GPU memory: how they lie there, and that nobody else reads or keeps them."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from fusematte.engine.cuda import dlpack
from fusematte.engine.cuda.device_pictures import PAIRED_NAMES, PITCH, PictureLayout, stand_ins
from fusematte.engine.frame import PIXEL_FORMATS


@pytest.mark.parametrize("name", PIXEL_FORMATS)
@pytest.mark.parametrize("size", [(1080, 1920), (97, 161), (2, 2)])
def test_planes_lie_one_after_the_other(name: str, size: tuple[int, int]) -> None:
    format = PIXEL_FORMATS[name]
    rng = np.random.default_rng(0)
    shapes = format.shapes(*size)
    planes = [rng.integers(0, format.peak + 1, shape).astype(format.dtype) for shape in shapes]
    for paired in {False, name in PAIRED_NAMES}:
        layout = PictureLayout(format=format, height=size[0], width=size[1], paired=paired)
        assert all(pitch % PITCH == 0 for pitch in layout.pitches)
        assert all(
            pitch >= width for pitch, (_, width) in zip(layout.pitches, layout.rows, strict=True)
        )
        if paired:  # where NVENC looks for the chroma
            assert layout.offsets[1] == layout.pitches[0] * size[0]
            assert layout.pitches[1] == layout.pitches[0] or size[1] % 2
        assert layout.offsets == sorted(layout.offsets)
        block = np.zeros(layout.size, np.uint8)
        layout.pack(planes, block)
        back = [np.empty_like(plane) for plane in planes]
        layout.unpack(block, back)
        for plane, again in zip(planes, back, strict=True):
            np.testing.assert_array_equal(plane, again)


def test_lent_memory_comes_back_when_nobody_reads_it() -> None:
    class Owner:
        pass

    layout = PictureLayout(format=PIXEL_FORMATS["yuv420p"], height=4, width=6, paired=True)
    block = np.arange(layout.size, dtype=np.uint8)
    owner, lent = Owner(), len(dlpack.lent)
    picture = layout.picture(block.ctypes.data, dlpack.CPU, owner)
    assert len(dlpack.lent) == lent + 2
    luma = np.frombuffer(picture.planes[0], np.uint8).reshape(4, PITCH)
    np.testing.assert_array_equal(luma[:, :6], block.reshape(-1, PITCH)[:4, :6])
    assert picture.planes[1].buffer_ptr == block.ctypes.data + 4 * PITCH
    del picture, luma
    gc.collect()
    assert len(dlpack.lent) == lent


def test_the_planes_of_a_device_frame_are_not_read() -> None:
    planes = stand_ins(PIXEL_FORMATS["yuv420p10le"], 6, 8)
    assert [plane.shape for plane in planes] == [(6, 8), (3, 4), (3, 4)]
    assert planes[0].dtype == np.uint16
    with pytest.raises(TypeError, match="in GPU memory"):
        np.asarray(planes[0])
