"""A device for the CUDA kernels without a GPU: their source compiled for the CPU, on its memory."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusematte.engine.cuda.dlpack import CPU

Array = NDArray[Any]

SOURCES = Path(__file__).parents[1] / "cpp_ext"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


class HostDevice:
    """Runs the kernels on the CPU, at once; its addresses are NumPy's."""

    kind = CPU

    def __init__(self, library: Path) -> None:
        self._launch = ctypes.CDLL(str(library)).launch
        self._launch.restype = ctypes.c_bool
        self._memory: list[Array] = []
        self.launched: list[str] = []
        self.captured = 0

    def launch(
        self, kernel: str, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Any]
    ) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        assert self._launch(kernel.encode(), *grid, *block, pointers), kernel
        self.launched.append(kernel)

    def scratch(self, size: int) -> int:
        self._memory.append(np.full(size, 0xFF, np.uint8))
        return self._memory[-1].ctypes.data

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        pass

    def begin_frame(self) -> None:
        self._memory.clear()

    def place(self, array: Array) -> tuple[int, int]:
        return array.ctypes.data, array.strides[0]

    def fetch(self, array: Array, address: int) -> None:
        assert array.ctypes.data == address

    def allocate(self, size: int) -> Block:
        return Block(size)

    def pinned(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:  # noqa: ANN401
        return np.full(shape, 0x7F, dtype)

    def upload(self, source: Array, target: int) -> None:
        assert source.flags.c_contiguous
        ctypes.memmove(target, source.ctypes.data, source.nbytes)

    def download(self, source: int, target: Array) -> None:
        ctypes.memmove(target.ctypes.data, source, target.nbytes)

    def copy(self, source: int, target: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    def copy_rows(
        self, source: tuple[int, int], target: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        for row in range(shape[0]):
            ctypes.memmove(target[0] + row * target[1], source[0] + row * source[1], shape[1])

    def clear(self, target: int, size: int) -> None:
        ctypes.memset(target, 0, size)

    def capture(self, work: Callable[[], None]) -> Any:  # noqa: ANN401
        self.captured += 1
        return SimpleNamespace(launch=work, close=lambda: None)

    def mark(self) -> Any:  # noqa: ANN401
        return SimpleNamespace(synchronize=lambda: None)

    def follow_decoder(self) -> None:
        pass

    def wait(self) -> None:
        pass


class Block:
    """Memory of the device: what nobody has written yet is no number."""

    def __init__(self, size: int) -> None:
        self._bytes = np.full(size, 0xFF, np.uint8)

    def __int__(self) -> int:
        return self._bytes.ctypes.data


def compiled_for_the_host(folder: Path) -> HostDevice:
    if COMPILER is None or not (SOURCES / "csrc").exists():
        pytest.skip("needs a C++ compiler and sources")
    library = folder / "kernels.so"
    source = Path(__file__).parent / "emulator" / "kernels.cpp"
    command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{SOURCES}"]
    subprocess.run([*command, "-o", str(library), str(source)], check=True)
    return HostDevice(library)
