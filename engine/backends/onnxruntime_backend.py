"""Inference with ONNX Runtime, on the CPU and on the accelerators of the installed build."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.errors import BackendError, ModelError, first_line
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
"""Execution providers in the order they are tried, with their common names."""
DEVICES = {name.lower(): provider for provider, name in PROVIDERS.items()}
REMEDIES = {
    "directml": "pip install onnxruntime-directml (Windows)",
    "coreml": "pip install onnxruntime (macOS)",
    "cuda": "pip install onnxruntime-gpu",
    "tensorrt": "pip install onnxruntime-gpu",
}


class OnnxRuntimeBackend(Backend):
    """Runs the network in ONNX Runtime, on the first execution provider that works.

    An installed provider that fails is skipped with a warning.
    """

    name: ClassVar[str] = "onnxruntime"
    tunable: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = tuple(DEVICES)

    @classmethod
    def unavailable(cls) -> str | None:
        if find_spec("onnxruntime") is None:
            return "the package onnxruntime is not installed: pip install onnxruntime"
        return None

    @classmethod
    def candidates(cls, bundle: Bundle, *, thorough: bool) -> list[tuple[str, str]]:
        if not find_spec("onnxruntime"):
            return []
        installed = _load().get_available_providers()
        here = [device for device, provider in DEVICES.items() if provider in installed]
        own = _precision(bundle)
        found = [(device, own) for device in here if device != "cpu"]
        if thorough and "cpu" in here:  # OpenVINO was faster on every processor measured
            found += [("cpu", own)] + [("cpu", "int8")] * (bundle.int8 is not None)
        return found

    def _open(self, device: str | None, precision: str | None, threads: int | None) -> None:
        onnxruntime = _load()

        self._file = self.network_file(self.bundle, precision)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session, provider = self._new_session(options, device)
        self.device = f"ONNX Runtime {onnxruntime.__version__}, {PROVIDERS[provider]}"
        self.precision = "int8" if precision == "int8" else _precision(self.bundle)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.check_ports({p.name for p in inputs}, {p.name for p in outputs})

    def _new_session(self, options: Any, device: str | None) -> tuple[Any, str]:  # noqa: ANN401
        """A session and the name of its provider."""
        onnxruntime = _load()

        installed = onnxruntime.get_available_providers()
        wanted = PROVIDERS if device is None else [DEVICES[device]]
        if device is not None and DEVICES[device] not in installed:
            raise BackendError(
                f"the installed ONNX Runtime has no {PROVIDERS[DEVICES[device]]}, only "
                f"{', '.join(PROVIDERS[name] for name in installed if name in PROVIDERS)}: "
                f"{REMEDIES.get(device, 'install a build that has it')}",
                option="backend",
            )
        reason = "no known execution provider is installed"
        for provider in filter(installed.__contains__, wanted):
            try:
                session = onnxruntime.InferenceSession(
                    str(self._file), options, providers=[provider]
                )
            except Exception as error:  # onnxruntime's own exceptions have no common base
                reason = first_line(error)
            else:
                if session.get_providers()[0] == provider:
                    return session, provider
                reason = "its libraries or its device are missing"
            if device is None and provider != "CPUExecutionProvider":
                log.warning("onnxruntime: %s is installed but failed: %s", provider, reason)
        kind = ModelError if device in (None, "cpu") else BackendError
        raise kind(f"{self._file}: ONNX Runtime cannot run it: {reason}")

    def infer(self, image: Map, previous: Map) -> Maps:
        try:
            results = self._session.run(list(Maps._fields), self.feeds(image, previous))
        except Exception as error:  # as above: a lost device, too little memory
            reason = first_line(error)
            raise BackendError(f"{self.device} failed: {reason}") from error
        return self.within_range(result[0, 0] for result in results)

    def close(self) -> None:
        self._session = None


def _load() -> ModuleType:
    """ONNX Runtime without its telemetry, which sends to its maker and writes files of its own."""
    # It is read once, as the library is loaded; what the user has set stays.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = import_module("onnxruntime")
    onnxruntime.disable_telemetry_events()  # Windows heeds only this
    return onnxruntime


def _precision(bundle: Bundle) -> str:
    """The precision of an export, from its manifest; shipped models compute in fp32."""
    names = {"fp32": "f32", "fp16": "f16", "int8": "int8"}
    return names[bundle.manifest.get("export", {}).get("precision", "fp32")]
