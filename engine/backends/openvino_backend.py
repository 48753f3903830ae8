"""Inference with OpenVINO: on the CPU of any machine, on Intel's GPUs and NPUs."""

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
from fusematte.engine.errors import BackendError, ModelError
from fusematte.engine.models import Bundle

if TYPE_CHECKING:
    import openvino

log = logging.getLogger(__name__)

COMPILED = 12
"""Input sizes that stay compiled: those of four cameras of different shapes, at three scales each.
Every one of them holds threads and memory of its own."""


@dataclass(frozen=True, kw_only=True)
class NetworkKey(CacheKey):
    """What OpenVINO read in a file."""

    openvino: str
    file_sha256: str
    kind: str = "network"


@dataclass(frozen=True, kw_only=True)
class CompiledKey(NetworkKey):
    """A network compiled for one size, on a device."""

    processor: str
    options: str
    shape: tuple[int, ...]
    kind: str = "compiled"


def load_openvino() -> Any:  # noqa: ANN401
    """OpenVINO; its model converter, most of its import and used by nothing here, comes when
    somebody asks for it.

    OpenVINO goes without where the converter cannot be imported.
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
    """The network in OpenVINO: on the CPU, or on a GPU or an NPU of Intel's.

    Each input size is compiled once, with static shapes: OpenVINO plans memory and picks kernels
    for the size it knows.  Of more than ``COMPILED``, the one not used for longest goes.  What was
    compiled is kept on disk: it loads in a tenth of the time, to the same result bit for bit.
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

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
    ) -> None:
        library = load_openvino()
        self._core = library.Core()
        self._plugin = (device or "cpu").upper()
        self.bundle = bundle
        self.device = self._full_device_name()
        known = precisions(self._core, self._plugin, bundle)
        self.precision = precision or known[0]
        self._file = self.network_file(bundle, precision=self.precision)
        if self.precision not in known:
            raise BackendError(
                f"openvino does not compute in {precision} on {self.device}: it has "
                f"{', '.join(known)}"
            )
        self._options = self._compile_options(threads)
        self._cache = Cache()
        self._requests: dict[tuple[int, ...], openvino.InferRequest] = {}
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
                f"openvino finds no {self._plugin} here: it needs one of Intel's and its driver"
            ) from error

    def _compile_options(self, threads: int | None) -> dict[str, Any]:
        # A network in int8 says so itself; what is left of it computes in this precision.
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
            raise ModelError(f"{self._file}: OpenVINO cannot read it: {error}") from error

    def _describe(self) -> dict[str, Any]:
        """The network's ports and whether it computes in int8; read once, then kept."""
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
            request = self._compiled(shape).create_infer_request()
        self._requests[shape] = request  # what was used last comes last
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
                log.warning("openvino does not take what it compiled before: %s", error)
        compiled = self._compile(shape)
        try:
            exported = compiled.export_model()
        except RuntimeError as error:  # devices need not be able to
            log.info("openvino keeps nothing compiled for %s: %s", self.device, error)
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
            raise BackendError(f"openvino cannot compile it for {self.device}: {reason}") from error

    def infer(self, image: NDArray[np.float32], previous: NDArray[np.float32]) -> Maps:
        request = self._request(image.shape)
        try:
            request.infer(self.feeds(image, previous), share_inputs=True)
        except RuntimeError as error:  # a device that is gone, memory that is not there
            reason = _last_line(error)
            raise BackendError(f"openvino failed on {self.device}: {reason}") from error
        # The request's own buffers are overwritten by the next frame.
        return self.within_range(request.get_tensor(name).data[0, 0] for name in Maps._fields)

    def close(self) -> None:
        self._requests.clear()


def precisions(core: openvino.Core, plugin: str, bundle: Bundle) -> list[str]:
    """What a device of OpenVINO computes this model in, the first guess first.

    The guess stands until it is measured, and where nothing is measured: int8 with AVX2, where it
    was fastest or close to it on every processor met, and on GPUs and NPUs f16, their own.  f16 on
    an x86 processor is emulated: that we never take.
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
    """The CPU: its name, and what it computes in; makers give one name to many."""
    name = core.get_property("CPU", "FULL_DEVICE_NAME")
    able = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    return f"{name}, {platform.machine()}, {' '.join((*instruction_sets(), *able))}"


def _last_line(error: RuntimeError) -> str:
    """What went wrong; the lines before say where in OpenVINO's source."""
    return (str(error).strip().splitlines() or ["it does not say why"])[-1]


def _digest(file: Path) -> str:
    """Of a network's file, and of the weights that an .xml has beside it."""
    files = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
    digest = hashlib.sha256()
    for part in files:
        digest.update(part.read_bytes() if part.is_file() else b"")
    return digest.hexdigest()
