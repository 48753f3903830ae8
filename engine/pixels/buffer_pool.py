"""A pool of picture buffers that are reused once nothing refers to them.

The system maps fresh memory page by page, which takes about as long as filling it does.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from ctypes import Array, c_uint8

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Frame, Plane, Planes

ALIGNMENT = 64
"""Bytes: row alignment, and padding after the last row; the vector code of codecs needs both."""
IDLE = 8
"""Idle buffers that are kept: about as many as a pipeline has in flight."""
LARGEST = 1 << 28
"""Bytes; larger buffers are not kept: a still of a hundred megapixels has no next frame."""

_Lease = Array[c_uint8]
"""A block of the pool in use.  Planes are views of it; it lives as long as the last of them.  It is
not a NumPy array: NumPy would make the planes refer to the block itself, bypassing the lease."""

idle: deque[NDArray[np.uint8]] = deque(maxlen=IDLE)
"""Blocks without a lease, the oldest first."""


def new_planes(frame: Frame) -> Planes:
    """Three uninitialised planes with the frame's shapes and dtype."""
    y, u, v = _lease([plane.shape for plane in frame.planes], frame.planes[0].dtype.itemsize)
    return y, u, v


def new_plane(frame: Frame) -> Plane:
    """One uninitialised plane with the shape and dtype of the frame's luma."""
    return _lease([frame.planes[0].shape], frame.planes[0].dtype.itemsize)[0]


def is_leased(planes: Sequence[Plane]) -> bool:
    """Whether the planes are whole buffers of the pool, which encoders may read in place."""
    return all(isinstance(plane.base, Array) for plane in planes)


def _lease(shapes: Sequence[tuple[int, ...]], itemsize: int) -> list[Plane]:
    strides = [-(-width * itemsize // ALIGNMENT) * ALIGNMENT for _, width in shapes]
    sizes = [height * stride for (height, _), stride in zip(shapes, strides, strict=True)]
    memory = _take(sum(sizes) + ALIGNMENT)
    dtype = np.uint8 if itemsize == 1 else np.uint16
    return [
        np.ndarray(shape, dtype, memoryview(memory), sum(sizes[:index]), (strides[index], itemsize))
        for index, shape in enumerate(shapes)
    ]


def _take(size: int) -> _Lease:
    """A lease of a block of ``size`` bytes; the block goes back to the pool when it ends."""
    block = _idle_block(size)
    if block is None:
        raw = np.empty(size + ALIGNMENT, np.uint8)
        block = raw[-raw.ctypes.data % ALIGNMENT :][:size]
    lease = (c_uint8 * size).from_buffer(block.data)
    if size <= LARGEST:
        weakref.finalize(lease, idle.append, block).atexit = False
    return lease


def _idle_block(size: int) -> NDArray[np.uint8] | None:
    """An idle block of this size.  Leases end in any thread at any moment; there is no lock because
    each step is atomic."""
    for _ in range(len(idle)):
        try:
            block = idle.popleft()
        except IndexError:
            return None
        if block.size == size:
            return block
        idle.append(block)
    return None
