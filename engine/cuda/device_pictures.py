"""Pictures in GPU memory: the layout of their planes, and copies from and to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from fusematte.cpp_ext import cuda
from fusematte.engine.cuda import dlpack
from fusematte.engine.frame import Frame, PixelFormat, Plane, Planes

PITCH = 256
"""Row alignment in bytes, which suits NVENC and the copy engines."""

PAIRED_NAMES = {"yuv420p": "nv12", "yuv420p10le": "p010le"}
"""The semi-planar formats (interleaved U and V) of NVDEC and NVENC, by the engine's format."""


@dataclass(frozen=True, kw_only=True)
class DeviceFrame(Frame):
    """A frame whose pixels are in ``picture``, in GPU memory; ``planes`` only have shapes."""

    picture: av.VideoFrame


class _Elsewhere:
    """Stand-in for a plane in GPU memory: shape and dtype without samples."""

    def __init__(self, shape: tuple[int, int], dtype: type[np.generic]) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __array__(self, *_: object, **__: object) -> NDArray[Any]:
        raise TypeError("the pixels of this frame are in GPU memory; download its picture first")


def stand_ins(format: PixelFormat, height: int, width: int) -> Planes:
    """Planes with a shape but no pixels; reading them raises TypeError."""
    shapes = format.shapes(height, width)
    return cast(Planes, tuple(_Elsewhere(shape, format.dtype) for shape in shapes))


@dataclass(frozen=True, kw_only=True)
class PictureLayout:
    """A picture in one block of memory, its planes one after the other without gaps.

    NVENC expects the chroma of NV12 and P010 at pitch * height, with the luma's pitch.

    paired: U and V are interleaved in one plane, and 10-bit samples use the high bits.
    """

    format: PixelFormat
    height: int
    width: int
    paired: bool

    @property
    def itemsize(self) -> int:
        """Bytes of a sample."""
        return np.dtype(self.format.dtype).itemsize

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Rows and bytes per row, without padding, of each plane."""
        height, width = self.format.chroma_shape(self.height, self.width)
        chroma = [(height, 2 * width)] if self.paired else [(height, width)] * 2
        return [(h, w * self.itemsize) for h, w in [(self.height, self.width), *chroma]]

    @property
    def pitches(self) -> list[int]:
        """Bytes from one row to the next, of each plane."""
        return [-(-width // PITCH) * PITCH for _, width in self.rows]

    @property
    def offsets(self) -> list[int]:
        """Byte offset of each plane, then the size of the block."""
        sizes = [rows * pitch for (rows, _), pitch in zip(self.rows, self.pitches, strict=True)]
        return [sum(sizes[:index]) for index in range(len(sizes) + 1)]

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return self.offsets[-1]

    @property
    def name(self) -> str:
        """libav's name for the pixel format."""
        return PAIRED_NAMES[self.format.name] if self.paired else self.format.name

    def kernel_layout(self) -> cuda.Layout:
        """The layout as the kernels take it."""
        low_bits = 6 if self.paired and self.format.bits > 8 else 0
        chroma = self.format.chroma_shape(self.height, self.width)
        return cuda.Layout(
            self.height, self.width, *chroma, self.format.bits, low_bits, self.paired
        )

    def planes_at(self, address: int) -> cuda.Planes:
        """The planes of a picture at an address."""
        planes = cuda.Planes()
        for index, (offset, pitch) in enumerate(zip(self.offsets, self.pitches, strict=False)):
            planes.data[index], planes.stride[index] = address + offset, pitch
        return planes

    def views(self, block: NDArray[np.uint8]) -> list[Plane]:
        """The planes of a picture in host memory, [rows, samples], as writable views."""
        return [
            np.ndarray(
                (rows, width // self.itemsize),
                self.format.dtype,
                block.data,
                offset,
                (pitch, self.itemsize),
            )
            for (rows, width), offset, pitch in zip(
                self.rows, self.offsets, self.pitches, strict=False
            )
        ]

    def pack(self, planes: Sequence[Plane], block: NDArray[np.uint8]) -> None:
        """Writes Y, U and V into a picture in host memory."""
        targets = self.views(block)
        shift = self.kernel_layout().low_bits
        if not self.paired:
            for target, plane in zip(targets, planes, strict=True):
                np.copyto(target, plane)
            return
        luma, pairs = targets
        np.left_shift(planes[0], shift, out=luma)
        for index in (0, 1):
            np.left_shift(planes[1 + index], shift, out=pairs[:, index::2])

    def unpack(self, block: NDArray[np.uint8], planes: Sequence[Plane]) -> None:
        """Reads Y, U and V out of a picture in host memory."""
        sources = self.views(block)
        if self.paired:
            luma, pairs = sources
            sources = [luma, pairs[:, ::2], pairs[:, 1::2]]
        shift = self.kernel_layout().low_bits
        for source, plane in zip(sources, planes, strict=True):
            np.right_shift(source, shift, out=plane)

    def picture(self, address: int, device: int, owner: object) -> av.VideoFrame:
        """A libav picture over the memory at ``address``; it keeps ``owner`` alive."""
        bits, chroma = 8 * self.itemsize, self.format.chroma_shape(self.height, self.width)
        y, uv = (
            dlpack.Tensor(address + offset, shape, strides, bits, device, owner)
            for offset, shape, strides in (
                (0, (self.height, self.width), (self.pitches[0] // self.itemsize, 1)),
                (self.offsets[1], (*chroma, 2), (self.pitches[1] // self.itemsize, 2, 1)),
            )
        )
        return av.VideoFrame.from_dlpack((y, uv), format=self.name)


def layout_of(frame: Frame) -> PictureLayout:
    """The layout of a frame on the device: semi-planar from NVDEC, else planar."""
    return PictureLayout(
        format=frame.format,
        height=frame.height,
        width=frame.width,
        paired=isinstance(frame, DeviceFrame),
    )


def addresses(picture: av.VideoFrame) -> list[tuple[int, int]]:
    """Address and pitch of each plane of a libav picture, on any device."""
    return [(plane.buffer_ptr, plane.line_size) for plane in picture.planes]


def is_on_device(picture: av.VideoFrame) -> bool:
    """Whether the picture is in GPU memory."""
    return picture.format.name == "cuda"
