"""Exports memory as DLPack tensors, from which libav makes frames without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import Any

CPU, CUDA = 1, 2
"""kDLCPU, kDLCUDA."""
_UNSIGNED = 1  # kDLUInt


class _Tensor(ctypes.Structure):
    """``DLTensor`` of dlpack.h, version 0.x."""

    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _Managed(ctypes.Structure):
    """``DLManagedTensor``."""


_Deleter = ctypes.CFUNCTYPE(None, POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", _Deleter))

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = c_void_p, ctypes.c_char_p, c_void_p

lent: dict[int, tuple[Any, ...]] = {}
"""Tensors still in use by consumers, by the address of the managed tensor."""


def _give_back(managed: Any) -> None:  # noqa: ANN401
    """Deleter; a consumer calls it when done, from any thread."""
    lent.pop(ctypes.addressof(managed.contents), None)


_deleter = _Deleter(_give_back)


class Tensor:
    """Unsigned samples at an address, to be consumed once; the consumer keeps ``owner`` alive.

    Args:
        shape, strides: in samples.
        bits: per sample, 8 or 16.
        device: ``CPU`` or ``CUDA``, the first of its kind.
    """

    def __init__(
        self,
        address: int,
        shape: Sequence[int],
        strides: Sequence[int],
        bits: int,
        device: int,
        owner: object,
    ) -> None:
        self._device = device
        self._parts = address, tuple(shape), tuple(strides), bits, owner

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0

    def __dlpack__(self, *, stream: int | None = None) -> Any:  # noqa: ANN401
        """The capsule; work that fills the memory must have completed."""
        address, shape, strides, bits, owner = self._parts
        sides, steps = ((c_int64 * len(shape))(*values) for values in (shape, strides))
        tensor = _Tensor(address, self._device, 0, len(shape), _UNSIGNED, bits, 1, sides, steps, 0)
        managed = _Managed(tensor, None, _deleter)
        lent[ctypes.addressof(managed)] = managed, sides, steps, owner
        return _new_capsule(ctypes.addressof(managed), b"dltensor", None)
