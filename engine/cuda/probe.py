"""Detection of NVIDIA GPUs and drivers, without creating a context."""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec

OLDEST_DRIVER = 13, 0
"""The CUDA version of the TensorRT-RTX wheels and of the kernels' compiler."""


def open_libcuda() -> ctypes.CDLL | None:
    """The driver's library, or None if no NVIDIA driver is installed."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def count_gpus() -> int:
    """The number of NVIDIA GPUs."""
    library, count = open_libcuda(), ctypes.c_int(0)
    if library is None or library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def driver_version() -> tuple[int, int]:
    """The newest CUDA version, (major, minor), the driver supports; (0, 0) without a driver."""
    library, version = open_libcuda(), ctypes.c_int(0)
    if library is not None:
        library.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


def describe_gpus() -> list[str]:
    """Name, compute capability and the driver's CUDA version of each GPU."""
    library, count = open_libcuda(), count_gpus()
    if library is None or not count:
        return []
    described, cuda_version = [], ".".join(map(str, driver_version()))
    for index in range(count):
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
        library.cuDeviceGet(ctypes.byref(device), index)
        library.cuDeviceGetName(name, len(name), device)
        capability = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            value = ctypes.c_int(0)
            library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            capability.append(str(value.value))
        described.append(
            f"{name.value.decode()}, compute capability {'.'.join(capability)}, driver for CUDA "
            f"{cuda_version}"
        )
    return described


def why_no_gpu() -> str | None:
    """Why no GPU can be used and what to do about it; None if one can."""
    if open_libcuda() is None:
        return "no NVIDIA driver is installed: get one from nvidia.com/drivers"
    if not count_gpus():
        return "the NVIDIA driver finds no GPU: see what nvidia-smi says, or update the driver"
    if driver_version() < OLDEST_DRIVER:
        own, oldest = (".".join(map(str, v)) for v in (driver_version(), OLDEST_DRIVER))
        return (
            f"the NVIDIA driver supports CUDA {own}, but the installed packages need {oldest}: "
            "update it from nvidia.com/drivers"
        )
    return None


def why_no_cuda() -> str | None:
    """Why CUDA cannot be used from Python and what to do about it; None if it can."""
    if find_spec("pycuda") is None and why_no_gpu() is None:
        return "the package pycuda is not installed: pip install 'fusematte[tensorrt]'"
    return why_no_gpu()
