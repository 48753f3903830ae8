"""Inference with OpenVINO on the CPU: the backend that runs on any machine."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fusematte.cpp_ext import instruction_sets
from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.errors import ModelError
from fusematte.engine.models import Bundle

if TYPE_CHECKING:
    import openvino


COMPILED = 12
"""Input sizes that stay compiled: those of four cameras of different shapes, at three scales each.
Every one of them holds threads and memory of its own."""


class OpenVinoBackend(Backend):
    """The network on the CPU: in bf16 where the processor computes in it; with AVX2 else in int8,
    if the bundle has that network; in f32 elsewhere.

    Each input size is compiled once, with static shapes: OpenVINO plans memory and picks kernels
    for the size it knows.  Of more than ``COMPILED``, the one not used for longest goes.
    """

    name: ClassVar[str] = "openvino"
    reads: ClassVar[tuple[str, ...]] = (".onnx", ".xml")

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "the package openvino is not installed: pip install openvino"
        return None

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        import openvino

        self._core = openvino.Core()
        self.bundle = bundle
        self._options = self._compile_options(threads)
        self._requests: dict[tuple[int, ...], openvino.InferRequest] = {}
        self.device = str(self._core.get_property("CPU", "FULL_DEVICE_NAME"))
        self.precision = str(self._options["INFERENCE_PRECISION_HINT"])
        file = bundle.int8 if bundle.int8 and self._int8_is_fastest() else bundle.file
        try:
            self._model = self._core.read_model(file)
        except RuntimeError as error:
            raise ModelError(f"{file}: OpenVINO cannot read it: {error}") from error
        inputs, outputs = self._model.inputs, self._model.outputs
        self.check_ports({p.any_name for p in inputs}, {p.any_name for p in outputs})
        if any(node.get_type_name() == "FakeQuantize" for node in self._model.get_ops()):
            self.precision = "int8"

    def _compile_options(self, threads: int | None) -> dict[str, Any]:
        # OpenVINO's own default is bf16 exactly where AMX or AVX512-BF16 computes it natively.
        # It may also be f16, which x86 processors emulate: that we never take.
        default = self._core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if default == "bf16" else "f32",
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        return options

    def _int8_is_fastest(self) -> bool:
        """By measurement, see docs/export.md: with AVX2 and without bf16; ARM was not measured."""
        return self.precision == "f32" and "avx2" in instruction_sets()

    def _request(self, shape: tuple[int, ...]) -> openvino.InferRequest:
        request = self._requests.pop(shape, None)
        if request is None:
            while len(self._requests) >= COMPILED:
                del self._requests[next(iter(self._requests))]
            request = self._compile(shape)
        self._requests[shape] = request  # what was used last comes last
        return request

    def _compile(self, shape: tuple[int, ...]) -> openvino.InferRequest:
        model = self._model.clone()
        batch, _, height, width = shape
        model.reshape(
            {
                port.any_name: [batch, 3 if port.any_name == "image" else 1, height, width]
                for port in model.inputs
            }
        )
        return self._core.compile_model(model, "CPU", self._options).create_infer_request()

    def infer(self, image: NDArray[np.float32], previous: NDArray[np.float32]) -> Maps:
        request = self._request(image.shape)
        request.infer(self.feeds(image, previous), share_inputs=True)
        # The request's own buffers are overwritten by the next frame.
        return self.within_range(request.get_tensor(name).data[0, 0] for name in Maps._fields)

    def close(self) -> None:
        self._requests.clear()
