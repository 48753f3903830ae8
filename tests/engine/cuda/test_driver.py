"""The CUDA driver, as far as it can be tested without a GPU."""

from __future__ import annotations

import ctypes
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from fusematte.cpp_ext import cuda
from fusematte.engine.cuda import driver
from fusematte.engine.errors import BackendError


def test_no_memory_on_the_gpu() -> None:
    """PyCUDA's errors become ours, with what to do."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    def allocate(_: int) -> object:
        raise MemoryError("cuMemAlloc failed: out of memory")

    stack: list[str] = []
    context = SimpleNamespace(push=lambda: stack.append("on"), pop=stack.pop)
    opened = object.__new__(driver.CudaDriver)
    opened.name, opened._context = "NVIDIA T4", context
    opened._cuda = SimpleNamespace(Error=Error, MemoryError=MemoryError, mem_alloc=allocate)
    with pytest.raises(BackendError, match="T4 is out of memory; close other"), opened.current():
        opened.allocate(1 << 40)
    with pytest.raises(BackendError, match="T4 failed: launch"), opened.current():
        raise Error("launch")
    assert not stack


def test_arguments_are_packed_as_c_has_them() -> None:
    class Whole(ctypes.Structure):
        _fields_ = (
            ("job", cuda.ForegroundJob), ("radius", ctypes.c_int), ("sums", ctypes.c_void_p)
        )  # fmt: skip

    job = cuda.ForegroundJob(height=3, width=4, alpha=77)
    arguments = [job, ctypes.c_int(5), ctypes.c_void_p(99)]
    layout = "".join(driver.format_of(argument) for argument in arguments)
    packed = struct.pack(layout, *(driver.value_of(argument) for argument in arguments))
    assert packed == bytes(Whole(*arguments))


def test_every_kernels_arguments_are_packed_as_c_has_them() -> None:
    """Floats behind an integer, as ``blur_columns`` has them, lie where C puts them."""

    class Recorder:
        def __init__(self) -> None:
            self.calls: list[list[Any]] = []

        def launch(self, kernel: str, grid: object, block: object, arguments: list[Any]) -> None:  # noqa: ARG002
            self.calls.append(list(arguments))

        def scratch(self, size: int) -> int:  # noqa: ARG002
            return 4096

    device, levels = Recorder(), cuda.Levels(16, 219, 128, 224)
    cuda.shrink(device, 1, (3, 8, 9), 2, (4, 5))
    cuda.color_shift(device, 1, 2, levels, 3, (8, 9))
    cuda.blur_background(device, cuda.BlurJob(8, 9, 3, 1, 2, 3, 4, levels))
    for arguments in device.calls:
        fields = tuple((f"a{index}", type(value)) for index, value in enumerate(arguments))
        whole = type("Whole", (ctypes.Structure,), {"_fields_": fields})(*arguments)
        layout = "".join(map(driver.format_of, arguments))
        packed = struct.pack(layout, *map(driver.value_of, arguments))
        assert packed == bytes(whole)[: len(packed)]
        assert len(bytes(whole)) - len(packed) < 8  # C pads the whole's end
