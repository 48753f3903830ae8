"""Exports a model bundle for a backend, and checks the export on real frames."""

from __future__ import annotations

import json
import logging
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx

from fusematte.engine.backends import BACKENDS, Backend
from fusematte.engine.backends.onnxruntime_backend import OnnxRuntimeBackend
from fusematte.engine.backends.tensorrt.backend import TensorRtBackend
from fusematte.engine.errors import ExportError, OutputError, UsageError, reason_of
from fusematte.engine.frame import Map
from fusematte.engine.media.files import part_of
from fusematte.engine.models import Bundle, load_bundle, sha256_of
from fusematte.export.build_engine import Sizes, build_engine
from fusematte.export.bundle import write_bundle
from fusematte.export.frames import Sample, load_samples
from fusematte.export.graph import fp32_islands, simplify, to_half
from fusematte.export.guided_filter import add_guided_filter, without_guided_filter
from fusematte.export.quantise import quantise_onnx, quantise_openvino
from fusematte.export.torch_tensorrt_export import write_program
from fusematte.export.verify import BOUNDS, Accuracy, Reference, check
from fusematte.training.weights import load_averaged_network, load_network

log = logging.getLogger(__name__)

FRAMES = 16
"""Number of frames; int8 is calibrated on every other one and checked on the rest."""
TIMED_RUNS = 21
PACKAGES = (
    "fusematte",
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "tensorrt",
    "tensorrt_rtx_cu13_bindings",
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The parameters of an export.

    size: the network's (height, width); None for any.
    sizes: smallest and largest (height, width) of an engine for a range of sizes.
    frames: sources of real frames, see ``load_samples``; ``count`` frames are used (``FRAMES``).
    """

    bundle: Bundle
    target: str
    precision: str
    size: tuple[int, int] | None = None
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    guided_filter: str = "external"
    frames: tuple[Path, ...] = ()
    count: int | None = None

    @cached_property
    def samples(self) -> list[Sample]:
        """Real frames as network inputs."""
        size = self.engine_sizes().best if "tensorrt" in self.target else None
        return load_samples(self.frames, self.bundle, self.count or FRAMES, size)

    @cached_property
    def master(self) -> onnx.ModelProto:
        """The simplified network in fp32."""
        return simplify(onnx.load(self.bundle.file))

    @cached_property
    def reference(self) -> Reference:
        """PyTorch's outputs for the frames not used for calibration."""
        return self._answers(self.samples[1::2] or self.samples)

    def _answers(self, samples: list[Sample]) -> Reference:
        return Reference(load_network(self.bundle), samples)

    def calibration(self) -> list[dict[str, Map]]:
        """Inputs for calibration: every other frame, without and with a previous alpha."""
        if not self.frames:
            raise UsageError(
                "int8 is calibrated on real frames", remedy="add --frames VIDEO...", option="frames"
            )
        cases = self._answers(self.samples[0::2]).cases
        return [
            {"image": image} | ({"previous": previous} if self.bundle.takes_previous else {})
            for image, previous, _, _ in cases
        ]

    def engine_sizes(self) -> Sizes:
        """The input sizes of a TensorRT engine; by default only the model's own."""
        if self.sizes is None:
            only = self.size or self.bundle.default_size
            return Sizes(least=only, best=only, most=only)
        least, most = self.sizes
        height, width = (
            min(max(own, low), high)
            for own, low, high in zip(self.bundle.default_size, least, most, strict=True)
        )
        return Sizes(least=least, best=(height, width), most=most)

    def network(self) -> onnx.ModelProto:
        """The ONNX graph in the requested precision."""
        if self.precision == "int8":
            return quantise_onnx(self.master, self.calibration(), fp32_islands(self.master))
        return to_half(self.master) if self.precision == "fp16" else self.master


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The files that a target's writer made, the one that backends load first.

    details: further entries for the manifest.
    """

    files: tuple[str, ...]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A format: its writer, and the backend that checks it."""

    write: Callable[[Request, Path], Artifact]
    backend: str


def _ignore(stage: str) -> None:
    """Tells nobody."""


def export(request: Request, folder: Path, tell: Callable[[str], None] = _ignore) -> dict[str, Any]:
    """Writes the export into ``folder`` and returns its manifest.

    The folder is only created, or an older export replaced, after the check was passed.
    ``tell`` is called with what begins: writing, checking.

    Raises:
        ExportError: the accuracy is out of bounds, int8 is not faster, or it cannot be made here.
        UsageError, OutputError, InputError: the folder or the frames cannot be used.
    """
    if folder.exists() and not (folder / "manifest.json").exists() and any(folder.iterdir()):
        raise UsageError.at(
            folder, "contains files other than an export", remedy="choose another folder"
        )
    partial = part_of(folder)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        manifest = _export(request, partial, tell)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    except OSError as error:
        raise OutputError.at(folder, f"cannot be written: {reason_of(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _export(request: Request, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    target = TARGETS[request.target]
    tell(f"writing {request.target} in {request.precision}")
    manifest = describe(request, target.write(request, folder), folder)
    made = load_bundle(folder)
    tell("checking it on frames")
    if target.backend == "tensorrt" and TensorRtBackend.unavailable():
        manifest["export"] |= _prove_graph(request, made)
    else:
        manifest["export"] |= _prove(request, made, BACKENDS[target.backend])
    _write_manifest(folder, manifest)
    return manifest


def describe(request: Request, artifact: Artifact, folder: Path) -> dict[str, Any]:
    """Writes and returns the manifest of an export, before its check."""
    hashes = {name: sha256_of(folder / name) for name in artifact.files}
    main, *others = artifact.files
    manifest = request.bundle.without_int8().manifest | {
        "file": main,
        "sha256": hashes[main],
        "files": {name: hashes[name] for name in others},
        "export": {
            "target": request.target,
            "precision": request.precision,
            "source_sha256": request.bundle.manifest["sha256"],
            "versions": _versions(),
            **artifact.details,
        },
    }
    _write_manifest(folder, manifest)
    return manifest


def _prove_graph(request: Request, made: Bundle) -> dict[str, Any]:
    """Checks the engine's ONNX graph in ONNX Runtime, without a GPU to run the engine itself.

    The guided-filter plugin only exists in TensorRT, so the network is checked without it.
    """
    with tempfile.TemporaryDirectory(prefix="fusematte-") as folder:
        graph = Path(folder)
        onnx.save_model(
            without_guided_filter(onnx.load(made.folder / "model.onnx")), graph / "m.onnx"
        )
        backend = OnnxRuntimeBackend(replace(made, file=graph / "m.onnx"))
        accuracy = request.reference.compare(backend.infer)
        check(accuracy, backend.precision)
        backend.close()
    return {
        "engine_ran": False,
        "accuracy": _told(request, "model.onnx", backend, accuracy),
    }


def _prove(request: Request, made: Bundle, kind: type[Backend]) -> dict[str, Any]:
    """Runs the export on real frames; returns the entries for the manifest.

    Raises:
        ExportError: the accuracy is out of bounds, or int8 is not faster than the original.
    """
    backend = kind(made)
    accuracy = request.reference.compare(backend.infer)
    check(accuracy, backend.precision)
    proof: dict[str, Any] = {"accuracy": _told(request, made.file.name, backend, accuracy)}
    if made.file.suffix == ".engine":
        proof["engine_ran"] = True
    if request.precision == "int8":
        proof["speed"] = _compare_speed(request, backend, kind(request.bundle.without_int8()))
    backend.close()
    return proof


def _told(request: Request, ran: str, backend: Backend, accuracy: Accuracy) -> dict[str, Any]:
    return {
        "ran": ran,
        "backend": backend.name,
        "device": backend.device,
        "precision": backend.precision,
        "bound": BOUNDS[backend.precision],
        "frames_from": [path.name for path in request.frames] or "the demo's portrait",
        **accuracy.as_dict(),
    }


def _compare_speed(request: Request, ours: Backend, other: Backend) -> dict[str, Any]:
    """Times both in turns, so that other load on the machine affects both alike."""
    image, previous, _, _ = request.reference.cases[0]
    times: dict[str, list[float]] = {ours.precision: [], other.precision: []}
    for turn in range(TIMED_RUNS + 2):
        for backend in (ours, other):
            begun = time.perf_counter()
            backend.infer(image, previous)
            if turn > 1:
                times[backend.precision].append(1e3 * (time.perf_counter() - begun))
    other.close()
    medians = {name: round(statistics.median(values), 2) for name, values in times.items()}
    if medians[ours.precision] >= medians[other.precision]:
        raise ExportError(
            f"int8 is not faster here, so it is not kept: {medians[ours.precision]} ms per frame "
            f"against {medians[other.precision]} ms in {other.precision} ({ours.device})"
        )
    return {"median_ms": medians, "size": list(image.shape[2:])}


def _write_onnx(request: Request, folder: Path) -> Artifact:
    onnx.save_model(request.network(), folder / "model.onnx")
    return Artifact(files=("model.onnx",))


def _write_openvino(request: Request, folder: Path) -> Artifact:
    import openvino

    core = openvino.Core()
    if request.precision == "int8":
        master = core.read_model(request.master.SerializeToString())
        model = quantise_openvino(master, request.calibration(), fp32_islands(request.master))
    else:
        model = core.read_model(request.bundle.file)
    half = request.precision != "fp32"
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=half)
    return Artifact(files=("model.xml", "model.bin"))


def _write_engine(request: Request, folder: Path) -> Artifact:
    flavour = request.target
    sizes = request.engine_sizes()
    network = request.network()
    model = add_guided_filter(network, request.guided_filter)
    engine = build_engine(model, flavour, sizes)
    (folder / "model.engine").write_bytes(engine.plan)
    onnx.save_model(model, folder / "model.onnx")
    details = {
        "engine": {
            "flavour": flavour,
            "version": engine.version,
            "target_architectures": engine.architectures,
            "profile": asdict(sizes),
            "guided_filter": request.guided_filter,
            "kernels": engine.kernels,
            "activation_bytes": engine.activation_bytes,
        }
    }
    return Artifact(files=("model.engine", "model.onnx"), details=details)


def _write_program(request: Request, folder: Path) -> Artifact:
    if request.precision == "int8":
        raise UsageError(
            "torch-tensorrt exports must be fp32 or fp16, not int8", option="precision"
        )
    if request.sizes is not None or request.guided_filter != "external":
        raise UsageError(
            "torch-tensorrt exports take one --size and no --guided-filter", option="size"
        )
    sizes = request.engine_sizes()
    version = write_program(
        load_network(request.bundle),
        folder / "model.pt2",
        size=sizes.best,
        half=request.precision == "fp16",
    )
    details = {"flavour": "torch-tensorrt", "version": version, "profile": asdict(sizes)}
    return Artifact(files=("model.pt2",), details={"engine": details})


TARGETS = {
    "onnx": Target(write=_write_onnx, backend="onnxruntime"),
    "openvino": Target(write=_write_openvino, backend="openvino"),
    "tensorrt": Target(write=_write_engine, backend="tensorrt"),
    "tensorrt-rtx": Target(write=_write_engine, backend="tensorrt"),
    "torch-tensorrt": Target(write=_write_program, backend="torch"),
}
"""The formats by their names on the command line."""


def open_source(model: str) -> Bundle:
    """Opens the bundle to export: a shipped model, a bundle folder, or a training checkpoint.

    A checkpoint is converted to a bundle in a temporary folder that is deleted with the process.

    Raises:
        ModelError: there is no such model.
        CheckpointError: the checkpoint cannot be read.
        UsageError: it is an export.
    """
    if not model.endswith(".safetensors"):
        bundle = load_bundle(model)
        if "export" in bundle.manifest:
            raise UsageError.at(model, "is an export", remedy="use the model it was made from")
        return bundle
    network, training = load_averaged_network(Path(model))
    temporary = tempfile.TemporaryDirectory(prefix="fusematte-")
    write_bundle(network, Path(temporary.name), version="0+checkpoint", training=training)
    bundle = load_bundle(temporary.name)
    _kept.append(temporary)
    return bundle


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=2) + "\n"
    (folder / "manifest.json").write_text(text, "utf-8")
