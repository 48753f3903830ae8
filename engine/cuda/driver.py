"""The CUDA driver through PyCUDA: memory, a stream, the kernels of ``cpp_ext``, CUDA graphs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fusematte.cpp_ext import cuda
from fusematte.engine.cuda.dlpack import CUDA
from fusematte.engine.cuda.probe import open_libcuda
from fusematte.engine.errors import BackendError

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not synchronise with the default stream, where libav
decodes.  Otherwise the default stream could not be used while this one is captured."""
_BLOCKING_SYNC = 4
"""CU_CTX_SCHED_BLOCKING_SYNC."""


def _set_context_flags() -> None:
    """Gives the primary context the flags that libav requires: it refuses a context that is already
    active with the driver's defaults."""
    library = open_libcuda()
    if library is not None:
        library.cuDevicePrimaryCtxSetFlags_v2(0, _BLOCKING_SYNC)


class FrameDevice(cuda.Device, Protocol):
    """A device whose scratch memory is reused for each frame."""

    def begin_frame(self) -> None: ...


_devices: dict[int, FrameDevice] = {}
"""The device of each stream, by handle: TensorRT passes only the stream to a plugin."""


def serve_stream(handle: int, device: FrameDevice) -> None:
    """Registers the device with which the plugin launches its kernels on this stream."""
    _devices[handle] = device


def leave_stream(handle: int) -> None:
    """Removes a stream from the register, before it is destroyed."""
    _devices.pop(handle, None)


def device_of(handle: int) -> FrameDevice:
    """The device registered for a stream."""
    return _devices[handle]


class CudaDriver:
    """The first GPU's primary context with one stream; for use by one thread at a time.

    It implements ``cuda.Device``: the kernels of ``cpp_ext`` are launched on its stream.  Several
    drivers share the context's memory, each with its own stream.
    """

    kind = CUDA

    def __init__(self) -> None:
        import pycuda.driver as driver

        self._cuda = driver
        driver.init()
        _set_context_flags()
        device = driver.Device(0)
        self.name: str = device.name()
        self.compute_capability = ".".join(map(str, device.compute_capability()))
        self.version = str(driver.get_driver_version())
        self._context = device.retain_primary_context()
        self._scratch: list[Any] = []
        self._next_scratch = 0
        self._functions: dict[str, Any] = {}
        self._module: Any = None
        with self.current():
            self.stream = driver.Stream(_NON_BLOCKING)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes the GPU's context current in this thread, and converts PyCUDA's exceptions.

        Raises:
            BackendError: the GPU is out of memory or fails.
        """
        self._context.push()
        try:
            yield
        except self._cuda.MemoryError as error:
            raise BackendError(
                f"{self.name} is out of memory", remedy="close other programs or use a smaller size"
            ) from error
        except self._cuda.Error as error:
            raise BackendError(f"{self.name} failed: {error}") from error
        finally:
            self._context.pop()

    def allocate(self, size: int) -> Any:  # noqa: ANN401
        """Device memory, freed with the returned object; ``int()`` of it is the address."""
        return self._cuda.mem_alloc(max(size, 1))

    def pinned(self, shape: Sequence[int], dtype: Any = np.float32) -> NDArray[Any]:  # noqa: ANN401
        """An array in page-locked memory, for asynchronous copies."""
        if 0 in shape:
            return np.empty(tuple(shape), dtype)
        return np.asarray(self._cuda.pagelocked_empty(tuple(shape), dtype))

    def upload(self, source: NDArray[Any], target: int) -> None:
        """Copies to the device, on the stream."""
        self._cuda.memcpy_htod_async(target, source, self.stream)

    def download(self, source: int, target: NDArray[Any]) -> None:
        """Copies to the host, on the stream."""
        self._cuda.memcpy_dtoh_async(target, source, self.stream)

    def copy(self, source: int, target: int, size: int) -> None:
        """Copies bytes within the device, on the stream."""
        self._cuda.memcpy_dtod_async(target, source, size, self.stream)

    def copy_rows(
        self, source: tuple[int, int], target: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        """Copies rows within the device, on the stream.

        source, target: (address, pitch in bytes); shape: (rows, bytes per row).
        """
        work = self._cuda.Memcpy2D()
        work.set_src_device(source[0])
        work.set_dst_device(target[0])
        work.src_pitch, work.dst_pitch = source[1], target[1]
        work.height, work.width_in_bytes = shape
        work(self.stream)

    def clear(self, target: int, size: int) -> None:
        """Sets bytes to zero, on the stream."""
        self._cuda.memset_d8_async(target, 0, size, self.stream)

    def mark(self) -> Any:  # noqa: ANN401
        """Records an event; its ``synchronize()`` waits until the stream reaches it."""
        flags = self._cuda.event_flags
        event = self._cuda.Event(flags.DISABLE_TIMING | flags.BLOCKING_SYNC)
        event.record(self.stream)
        return event

    def follow(self, event: Any) -> None:  # noqa: ANN401
        """Lets later work on this stream wait for an event of another stream."""
        self.stream.wait_for_event(event)

    def follow_decoder(self) -> None:
        """Lets later work wait for what libav has queued on the default stream."""
        event = self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)
        event.record()
        self.follow(event)

    def wait(self) -> None:
        """Waits until the stream is idle."""
        self.stream.synchronize()

    def launch(
        self, kernel: str, grid: tuple[int, int], block: tuple[int, int], arguments: Sequence[Any]
    ) -> None:
        """Runs a kernel of ``cpp_ext`` on the stream."""
        function = self._function(kernel, arguments)
        function.prepared_async_call(grid, (*block, 1), self.stream, *map(value_of, arguments))

    def scratch(self, size: int) -> int:
        """Scratch memory for the current frame; see ``begin_frame``."""
        index = self._next_scratch
        self._next_scratch += 1
        if index == len(self._scratch):
            self._scratch.append((size, self.allocate(size)))
        elif self._scratch[index][0] < size:
            self._scratch[index] = size, self.allocate(size)
        return int(self._scratch[index][1])

    def begin_frame(self) -> None:
        """Makes all scratch memory available again: the stream processes frames one by one."""
        self._next_scratch = 0

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Captures what ``work`` queues on the stream as a graph, without running it."""
        return CudaGraph(int(self.stream.handle), work)

    def _function(self, kernel: str, arguments: Sequence[Any]) -> Any:  # noqa: ANN401
        if kernel not in self._functions:
            if self._module is None:
                path = cuda.fatbin()
                if path is None:
                    raise BackendError(str(cuda.why_no_kernels()))
                self._module = self._cuda.module_from_file(str(path))
            function = self._module.get_function(kernel)
            function.prepare("".join(map(format_of, arguments)))
            self._functions[kernel] = function
        return self._functions[kernel]

    def close(self) -> None:
        """Frees stream, scratch memory and context; may be called twice."""
        if self._context is None:
            return
        with self.current():
            leave_stream(int(self.stream.handle))
            self._scratch.clear()
            self._functions.clear()
            self._module = None
            del self.stream
        self._context.detach()
        self._context = None


class CudaGraph:
    """A CUDA graph captured from a stream, by ctypes because PyCUDA has no call for it."""

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        library = open_libcuda()
        assert library is not None  # there is a stream
        self._library, self._stream = library, ctypes.c_void_p(stream)
        graph, self._instance = ctypes.c_void_p(), ctypes.c_void_p()
        relaxed = 2  # other threads may call CUDA meanwhile
        self._check(library.cuStreamBeginCapture_v2(self._stream, relaxed))
        try:
            work()
        finally:
            code = library.cuStreamEndCapture(self._stream, ctypes.byref(graph))
        self._check(code)
        instance = ctypes.byref(self._instance)
        self._check(library.cuGraphInstantiateWithFlags(instance, graph, ctypes.c_ulonglong(0)))
        library.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Queues the captured work on the stream."""
        self._check(self._library.cuGraphLaunch(self._instance, self._stream))

    def close(self) -> None:
        """Frees the graph; may be called twice."""
        if self._instance:
            self._library.cuGraphExecDestroy(self._instance)
            self._instance = ctypes.c_void_p()

    @staticmethod
    def _check(code: int) -> None:
        if code:
            raise BackendError(f"a CUDA graph failed with driver error {code}")


def format_of(argument: Any) -> str:  # noqa: ANN401
    """The ``struct`` format of a kernel argument, with C alignment."""
    if isinstance(argument, ctypes.Structure):
        return f"{ctypes.sizeof(argument)}s"
    kinds = {ctypes.c_void_p: "P", ctypes.c_float: "f", ctypes.c_int: "i"}
    return kinds[type(argument)]


def value_of(argument: Any) -> Any:  # noqa: ANN401
    """A kernel argument as ``struct`` packs it."""
    if isinstance(argument, ctypes.Structure):
        return bytes(argument)
    return argument.value or 0
