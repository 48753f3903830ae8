"""A plugin of pytest: TensorRT's runtime on the emulated driver.

TensorRT-RTX itself builds the engines; it cannot load them without a GPU.  In its place ONNX
Runtime computes the graph that an engine was built of, on the addresses and in the order of the
stream that it is given.  With ``FUSEMATTE_EMULATED=tensorrt`` the library lacks what is
TensorRT-RTX's own, as full TensorRT does, and its launches are captured by FuseMatte.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tensorrt_rtx_bindings

from fusematte.engine.backends.cuda_driver import open_libcuda
from fusematte.export import build_engine, exporter
from fusematte.export.build_engine import Engine as Built
from fusematte.export.build_engine import Sizes
from tests.engines import RTX, SURFACES, Engine, Floats, Recorded, Shape

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

OURS = next(name for name in SURFACES if "rtx" not in name)
SURFACE = SURFACES[OURS if os.environ.get("FUSEMATTE_EMULATED") == "tensorrt" else RTX]

_networks: dict[bytes, tuple[onnx.ModelProto, Sizes]] = {}
_kept: list[Any] = []
"""What a captured graph may still call."""


def view(address: int, shape: Shape) -> Floats:
    """The emulated device's memory is the host's."""
    pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, shape)


def schedule(stream: int, work: Callable[[], None]) -> None:
    """Puts work on a stream as a library's kernels are put there."""
    call = HOST_FUNCTION(lambda _: work())
    _kept.append(call)
    library = open_libcuda()
    assert library is not None
    assert library.cuLaunchHostFunc(ctypes.c_void_p(stream), call, None) == 0


def remember(built: Callable[..., Built]) -> Callable[..., Built]:
    """Lets the runtime know which network an engine was built of, and for which sizes."""

    def build(model: onnx.ModelProto, flavour: str, sizes: Sizes) -> Built:
        made = built(model, flavour, sizes)
        _networks[made.plan] = model, sizes
        return made

    return build


class Runtime:
    """Loads the engines that were built in this process."""

    def deserialize_cuda_engine(self, plan: bytes) -> Recorded | None:
        if plan not in _networks:
            return None
        model, sizes = _networks[plan]
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

        def compute(feeds: Mapping[str, Floats]) -> dict[str, Floats]:
            return dict(zip(engine.outputs, session.run(engine.outputs, feeds), strict=True))

        engine = Engine(SURFACE, view, compute, schedule, tensorrt_rtx_bindings.TensorIOMode)
        engine.inputs = tuple(port.name for port in session.get_inputs())
        engine.outputs = tuple(port.name for port in session.get_outputs())
        engine.least, engine.best, engine.most = sizes.least, sizes.best, sizes.most
        return Recorded(SURFACE, "ICudaEngine", engine)


def pytest_configure() -> None:
    """Before any test is collected."""
    tensorrt_rtx_bindings.Runtime = lambda _: Recorded(SURFACE, "Runtime", Runtime())
    if "CudaGraphStrategy" not in SURFACE["module"]:
        del tensorrt_rtx_bindings.CudaGraphStrategy
    build_engine.build_engine = exporter.build_engine = remember(build_engine.build_engine)
    os.environ["FUSEMATTE_CACHE"] = tempfile.mkdtemp(prefix="fusematte-")
