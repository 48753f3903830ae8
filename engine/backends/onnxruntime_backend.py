"""Inference with ONNX Runtime: the CPU, and whatever its installed build brings besides."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any, ClassVar

from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.errors import ModelError
from fusematte.engine.frame import Map
from fusematte.engine.models import Bundle

log = logging.getLogger(__name__)

PROVIDERS = {
    "TensorrtExecutionProvider": "TensorRT",
    "CUDAExecutionProvider": "CUDA",
    "DmlExecutionProvider": "DirectML",
    "CoreMLExecutionProvider": "CoreML",
    "CPUExecutionProvider": "CPU",
}
"""In the order in which they are tried; what ONNX Runtime calls them, what people do."""


class OnnxRuntimeBackend(Backend):
    """The network in ONNX Runtime, on the first of its execution providers that works.

    An installed provider that fails is passed over with a warning, never silently.
    """

    name: ClassVar[str] = "onnxruntime"

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "the package onnxruntime is not installed: pip install onnxruntime"
        return None

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        import onnxruntime

        self.bundle = bundle
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session, provider = self._open(options)
        self.device = f"ONNX Runtime {onnxruntime.__version__}, {PROVIDERS[provider]}"
        self.precision = _precision(bundle)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.check_ports({p.name for p in inputs}, {p.name for p in outputs})

    def _open(self, options: Any) -> tuple[Any, str]:  # noqa: ANN401
        """A session and its provider's name."""
        import onnxruntime

        reason = "no known execution provider is installed"
        for provider in filter(onnxruntime.get_available_providers().__contains__, PROVIDERS):
            try:
                session = onnxruntime.InferenceSession(
                    str(self.bundle.file), options, providers=[provider]
                )
            except Exception as error:  # onnxruntime's own exceptions have no common base
                reason = str(error).splitlines()[0]
            else:
                if session.get_providers()[0] == provider:
                    return session, provider
                reason = "its libraries are missing or its device is"
            if provider != "CPUExecutionProvider":
                log.warning("onnxruntime: %s is installed but fails: %s", provider, reason)
        raise ModelError(f"{self.bundle.file}: ONNX Runtime cannot run it: {reason}")

    def infer(self, image: Map, previous: Map) -> Maps:
        results = self._session.run(list(Maps._fields), self.feeds(image, previous))
        return self.within_range(result[0, 0] for result in results)

    def close(self) -> None:
        self._session = None


def _precision(bundle: Bundle) -> str:
    """An export says its precision; a shipped model computes in fp32."""
    names = {"fp32": "f32", "fp16": "f16", "int8": "int8"}
    return names[bundle.manifest.get("export", {}).get("precision", "fp32")]
