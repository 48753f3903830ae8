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
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tensorrt_rtx_bindings

from fusematte.engine.backends.tensorrt import plugin as tensorrt_plugin
from fusematte.engine.backends.tensorrt.plugin import PLUGIN
from fusematte.engine.cuda.probe import open_libcuda
from fusematte.engine.matting.refine import CERTAIN, COLOR_EPSILON, COLOR_RADIUS
from fusematte.export import build_engine, exporter
from fusematte.export.build_engine import Engine as Built
from fusematte.export.build_engine import Sizes
from fusematte.export.guided_filter import without_guided_filter
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


def guided_filter(stream: int, addresses: dict[str, int], shapes: dict[str, Shape]) -> None:
    """The plugin's layer, called as TensorRT calls it."""
    layer = tensorrt_plugin.plugin_class(tensorrt_rtx_bindings)(
        COLOR_RADIUS, COLOR_EPSILON, CERTAIN
    )
    described = [SimpleNamespace(dims=shapes[name]) for name in ("guide", "alpha", "guided")]
    inputs, outputs = [addresses["guide"], addresses["alpha"]], [addresses["guided"]]
    layer.enqueue(described[:2], described[2:], inputs, outputs, 0, stream)


class Runtime:
    """Loads the engines that were built in this process."""

    def deserialize_cuda_engine(self, plan: bytes) -> Recorded | None:
        if plan not in _networks:
            return None
        model, sizes = _networks[plan]
        has_plugin = any(node.op_type == PLUGIN.name for node in model.graph.node)
        network = without_guided_filter(model) if has_plugin else model
        session = onnxruntime.InferenceSession(
            network.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        read, written = (
            [port.name for port in ports] for ports in (session.get_inputs(), session.get_outputs())
        )

        def compute(feeds: Mapping[str, Floats]) -> dict[str, Floats]:
            results = session.run(written, {name: feeds[name] for name in read})
            return dict(zip(written, results, strict=True))

        engine = Engine(SURFACE, view, compute, schedule, tensorrt_rtx_bindings.TensorIOMode)
        engine.inputs = tuple(value.name for value in model.graph.input)
        engine.outputs = tuple(value.name for value in model.graph.output)
        engine.layers = guided_filter if has_plugin else None
        engine.least, engine.best, engine.most = sizes.least, sizes.best, sizes.most
        return Recorded(SURFACE, "ICudaEngine", engine)


def pytest_configure() -> None:
    """Before any test is collected."""
    tensorrt_rtx_bindings.Runtime = lambda _: Recorded(SURFACE, "Runtime", Runtime())
    if "CudaGraphStrategy" not in SURFACE["module"]:
        del tensorrt_rtx_bindings.CudaGraphStrategy
    build_engine.build_engine = exporter.build_engine = remember(build_engine.build_engine)
    os.environ["FUSEMATTE_CACHE"] = tempfile.mkdtemp(prefix="fusematte-")
