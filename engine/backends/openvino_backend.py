"""Inference with OpenVINO, on any CPU and on Intel GPUs and NPUs."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import platform
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fusematte.cpp_ext import instruction_sets
from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.backends.cache import Cache, CacheKey
from fusematte.engine.errors import BackendError, ModelError, first_line
from fusematte.engine.models import Bundle

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

COMPILED = 6
"""Input sizes that stay compiled: those of two cameras with different aspect ratios, at three
scales each.  Every one holds its own threads and 40 to 80 MB; others come from the disk's cache."""


@dataclass(frozen=True, kw_only=True)
class NetworkKey(CacheKey):
    """Cache key of a network's description, as OpenVINO read it from a file."""

    openvino: str
    file_sha256: str
    kind: str = "network"


@dataclass(frozen=True, kw_only=True)
class CompiledKey(NetworkKey):
    """Cache key of a network compiled for one input size and device."""

    processor: str
    options: str
    shape: tuple[int, ...]
    kind: str = "compiled"


def load_openvino() -> Any:  # noqa: ANN401
    """The ``openvino`` module, with its model converter imported lazily.

    The converter takes most of OpenVINO's import time and is not used here.  OpenVINO supports
    being imported without it.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    converter = "openvino.tools.ovc"
    sys.modules[converter] = None  # type: ignore[assignment]
    try:
        openvino = importlib.import_module("openvino")
    finally:
        del sys.modules[converter]

    def late(name: str) -> Any:  # noqa: ANN401
        if name != "convert_model":
            raise AttributeError(f"module 'openvino' has no attribute {name!r}", name=name)
        return importlib.import_module(converter).convert_model

    vars(openvino)["__getattr__"] = late
    return openvino


class OpenVinoBackend(Backend):
    """Runs the network in OpenVINO: on the CPU, or on an Intel GPU or NPU.

    Each input size is compiled once, with static shapes, for which OpenVINO plans memory and picks
    kernels.  Beyond ``COMPILED`` sizes, the least recently used one is dropped.  Compiled networks
    are cached on disk: they load in a tenth of the time and give bit-identical results.
    """

    name: ClassVar[str] = "openvino"
    reads: ClassVar[tuple[str, ...]] = (".onnx", ".xml")
    tunable: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cpu", "gpu", "npu")

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "the package openvino is not installed: pip install openvino"
        return None

    @classmethod
    def candidates(cls, bundle: Bundle, *, thorough: bool) -> list[tuple[str, str]]:  # noqa: ARG003
        core = load_openvino().Core()
        # Several GPUs are GPU.0, GPU.1; OpenVINO takes the first for "GPU".
        here = {name.split(".")[0].lower() for name in core.available_devices}
        return [
            (device, precision)
            for device in cls.devices
            if device in here
            for precision in precisions(core, device.upper(), bundle)
        ]

    def _open(self, device: str | None, precision: str | None, threads: int | None) -> None:
        library = load_openvino()
        self._core = library.Core()
        self._plugin = (device or "cpu").upper()
        self.device = self._full_device_name()
        known = precisions(self._core, self._plugin, self.bundle)
        self.precision = precision or known[0]
        self._file = self.network_file(self.bundle, precision=self.precision)
        if self.precision not in known:
            raise BackendError(
                f"openvino has no {precision} on {self.device}",
                option="backend",
                remedy=f"use {', '.join(known)}",
            )
        self._options = self._compile_options(threads)
        self._cache = Cache()
        self._requests: dict[tuple[int, ...], openvino.InferRequest] = {}
        self._early: dict[tuple[int, ...], openvino.CompiledModel] = {}
        self._network_key = NetworkKey(
            openvino=library.get_version(), file_sha256=_digest(self._file)
        )
        network = self._describe()
        self.check_ports(set(network["inputs"]), set(network["outputs"]))
        if network["quantised"]:
            self.precision = "int8"

    def _full_device_name(self) -> str:
        try:
            return str(self._core.get_property(self._plugin, "FULL_DEVICE_NAME"))
        except RuntimeError as error:
            raise BackendError(
                f"openvino finds no {self._plugin} here; it needs an Intel {self._plugin} and its "
                "driver",
                option="backend",
            ) from error

    def _compile_options(self, threads: int | None) -> dict[str, Any]:
        # An int8 network is marked as such; its remaining layers compute in this precision.
        hint = "f32" if self.precision == "int8" and self._plugin == "CPU" else self.precision
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f16" if hint == "int8" else hint,
        }
        if threads is not None and self._plugin == "CPU":
            options["INFERENCE_NUM_THREADS"] = threads
        return options

    @cached_property
    def _model(self) -> openvino.Model:
        try:
            return self._core.read_model(self._file)
        except RuntimeError as error:
            reason = first_line(error)
            raise ModelError.at(self._file, f"OpenVINO cannot read it: {reason}") from error

    def _describe(self) -> dict[str, Any]:
        """The network's inputs and outputs, and whether it is int8; cached on disk."""
        if (kept := self._cache.load(self._network_key)) is not None:
            network: dict[str, Any] = json.loads(kept)
            return network
        kinds = {node.get_type_name() for node in self._model.get_ops()}
        network = {
            "inputs": [port.any_name for port in self._model.inputs],
            "outputs": [port.any_name for port in self._model.outputs],
            "quantised": "FakeQuantize" in kinds,
        }
        self._cache.store(self._network_key, json.dumps(network).encode())
        return network

    def _request(self, shape: tuple[int, ...]) -> openvino.InferRequest:
        request = self._requests.pop(shape, None)
        if request is None:
            while len(self._requests) >= COMPILED:
                del self._requests[next(iter(self._requests))]
            compiled = self._early.pop(shape, None) or self._compiled(shape)
            request = compiled.create_infer_request()
        self._requests[shape] = request  # most recently used comes last
        return request

    def _compiled(self, shape: tuple[int, ...]) -> openvino.CompiledModel:
        key = CompiledKey(
            **(vars(self._network_key) | {"kind": "compiled"}),
            processor=f"{processor(self._core)}; {self._plugin} {self.device}",
            # A compiled network runs on any number of threads.
            options=json.dumps(self._options | {"INFERENCE_NUM_THREADS": None}, sort_keys=True),
            shape=shape,
        )
        if (kept := self._cache.load(key)) is not None:
            try:
                return self._core.import_model(io.BytesIO(kept), self._plugin, self._options)
            except RuntimeError as error:
                log.warning("openvino refuses a network it compiled earlier: %s", first_line(error))
        compiled = self._compile(shape)
        try:
            exported = compiled.export_model()
        except RuntimeError as error:  # not every device supports it
            reason = first_line(error)
            log.info("openvino cannot export networks compiled for %s: %s", self.device, reason)
        else:
            self._cache.store(key, exported if isinstance(exported, bytes) else exported.read())
        return compiled

    def _compile(self, shape: tuple[int, ...]) -> openvino.CompiledModel:
        model = self._model.clone()
        batch, _, height, width = shape
        model.reshape(
            {
                port.any_name: [batch, 3 if port.any_name == "image" else 1, height, width]
                for port in model.inputs
            }
        )
        try:
            return self._core.compile_model(model, self._plugin, self._options)
        except RuntimeError as error:
            reason = _last_line(error)
            raise BackendError(
                f"openvino cannot compile the network for {self.device}: {reason}"
            ) from error

    def compile(self, shape: tuple[int, ...]) -> None:
        if shape not in self._requests:
            compiled = self._compiled(shape)
            if shape not in self._requests:  # ``infer`` may have needed it sooner
                self._early[shape] = compiled

    def infer(self, image: NDArray[np.float32], previous: NDArray[np.float32]) -> Maps:
        request = self._request(image.shape)
        try:
            request.infer(self.feeds(image, previous), share_inputs=True)
        except RuntimeError as error:  # a lost device, too little memory
            reason = _last_line(error)
            raise BackendError(f"openvino failed on {self.device}: {reason}") from error
        # The request's buffers are overwritten by the next frame.
        return self.within_range(request.get_tensor(name).data[0, 0] for name in Maps._fields)

    def close(self) -> None:
        self._requests.clear()
        self._early.clear()


def precisions(core: openvino.Core, plugin: str, bundle: Bundle) -> list[str]:
    """The precisions in which an OpenVINO device can run this model, the best guess first.

    The guess is used until it is measured, and where nothing is measured: int8 on CPUs with AVX2,
    where it was fastest or close to it on every processor measured, and f16 on GPUs and NPUs.  f16
    on x86 is emulated and never used.
    """
    able = set(core.get_property(plugin, "OPTIMIZATION_CAPABILITIES"))
    emulated = plugin == "CPU" and platform.machine().lower() in ("x86_64", "amd64")
    found = {
        "int8": bundle.quantised or ("INT8" in able and bundle.int8 is not None),
        "f16": "FP16" in able and not emulated,
        "bf16": "BF16" in able,
        "f32": "FP32" in able,
    }
    order = ["f16", "int8", "bf16", "f32"]
    if plugin == "CPU":
        avx2 = "avx2" in instruction_sets()
        order = ["int8", "bf16", "f32", "f16"] if avx2 else ["f32", "bf16", "f16", "int8"]
    return [p for p in order if found[p] and (p == "int8" or not bundle.quantised)]


def processor(core: openvino.Core) -> str:
    """Identifies the CPU: name and instruction sets, as makers reuse names for different ones."""
    name = core.get_property("CPU", "FULL_DEVICE_NAME")
    able = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    return f"{name}, {platform.machine()}, {' '.join((*instruction_sets(), *able))}"


def _last_line(error: RuntimeError) -> str:
    """The reason in an OpenVINO error; the lines before it are locations in OpenVINO's source."""
    return (str(error).strip().splitlines() or ["no reason given"])[-1]


def _digest(file: Path) -> str:
    """SHA-256 of a network file, with the weights in the .bin beside an .xml."""
    files = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
    digest = hashlib.sha256()
    for part in files:
        digest.update(part.read_bytes() if part.is_file() else b"")
    return digest.hexdigest()
