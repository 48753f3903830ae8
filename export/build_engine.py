"""TensorRT engines: one builder for tensorrt 10 and 11 and for tensorrt_rtx.

Networks are strongly typed: each layer computes in the type that its tensors have in the ONNX
graph, and TensorRT chooses no other.
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from fusematte.engine.backends.tensorrt_library import load_library, make_logger
from fusematte.engine.backends.tensorrt_plugin import build_only, register_plugin
from fusematte.engine.errors import ExportError
from fusematte.engine.models import Bundle
from fusematte.export.graph import simplify, to_half

log = logging.getLogger(__name__)

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The (height, width) that an engine takes; the best one is what it is tuned for."""

    least: Size
    best: Size
    most: Size


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A serialised engine and what its builder told of it.

    kernels: how many there are of each kind after fusion (``kgen``: generated, ``correlation``:
    convolutions, ``custom_layer``: plugins); activation_bytes: memory of one execution context;
    architectures: the GPUs it runs on.
    """

    plan: bytes
    kernels: dict[str, int]
    activation_bytes: int | None
    architectures: list[str] | str
    version: str


def build_engine(model: onnx.ModelProto, flavour: str, sizes: Sizes) -> Engine:
    """Builds an engine; a GPU is needed for ``tensorrt`` only.

    Raises:
        BackendError: that flavour of TensorRT is not installed.
        ExportError: TensorRT refuses the network; its own reason is in the message.
    """
    library = load_library(flavour)
    logger = make_logger(library)
    if flavour == "tensorrt-rtx":
        _make_findable(library)
    register_plugin(library, build_only)
    builder = library.Builder(logger)
    network = builder.create_network(_strongly_typed(library))
    parser = library.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors)
        raise ExportError(f"{flavour} cannot read the network: {reasons}")
    config = _configure(library, builder, network, sizes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{flavour} cannot build the engine: {logger.errors()}")
    return Engine(
        plan=bytes(plan),
        kernels=_kernels(logger),
        activation_bytes=_activation_bytes(logger),
        architectures=_architectures(library, config),
        version=library.__version__,
    )


def build_for_bundle(bundle: Bundle, flavour: str) -> bytes:
    """An fp16 engine of a bundle for every size around its own, for use on this machine."""
    model = to_half(simplify(onnx.load(bundle.file)))
    return build_engine(model, flavour, default_sizes(bundle)).plan


def default_sizes(bundle: Bundle) -> Sizes:
    """Every shape that a frame may give the network: from half to twice each side."""
    height, width = bundle.default_size
    step = bundle.multiple
    return Sizes(
        least=(step * max(1, height // (2 * step)), step * max(1, width // (2 * step))),
        best=(height, width),
        most=(2 * height, 2 * width),
    )


def _strongly_typed(library: Any) -> int:  # noqa: ANN401
    """The creation flags; TensorRT 11 has no other networks, and may have lost the flag."""
    flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(library: Any, builder: Any, network: Any, sizes: Sizes) -> Any:  # noqa: ANN401
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        channels = tensor.shape[1]
        shapes = [(1, channels, *size) for size in (sizes.least, sizes.best, sizes.most)]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    return config


def _architectures(library: Any, config: Any) -> list[str] | str:  # noqa: ANN401
    """The compute capabilities that the engine runs on, as the library itself says."""
    if not hasattr(config, "num_compute_capabilities"):
        return "this machine's GPU"
    chosen = [
        str(config.get_compute_capability(index)).rpartition(".")[2]
        for index in range(config.num_compute_capabilities)
    ]
    return chosen or [n for n in dir(library.ComputeCapability) if n.startswith("SM")]


def _make_findable(library: Any) -> None:  # noqa: ANN401
    """Python plugins ask for libtensorrt_rtx.so, of which the wheel has libtensorrt_rtx.so.1."""
    folder = Path(library.__file__).parent.with_name("tensorrt_rtx_libs")
    for versioned in folder.glob("libtensorrt_rtx.so.1"):
        plain = versioned.with_suffix("")
        if not plain.exists():
            try:
                plain.symlink_to(versioned.name)
            except OSError as error:
                log.warning("%s cannot be linked (%s): no plugin can be built", plain, error)
        ctypes.CDLL(str(versioned), mode=ctypes.RTLD_GLOBAL)


def _kernels(logger: Any) -> dict[str, int]:  # noqa: ANN401
    """The kernels by kind, from the builder's own listing; waiting is none."""
    for _, text in logger.lines:
        if text.startswith("Layers:"):
            kinds = re.findall(r"^Name: [^,]*, LayerType: ([^,]*)", text, re.MULTILINE)
            return dict(
                sorted(Counter(kind for kind in kinds if kind not in ("signal", "wait")).items())
            )
    return {}


def _activation_bytes(logger: Any) -> int | None:  # noqa: ANN401
    sizes = [
        int(match[1])
        for _, text in logger.lines
        if (match := re.search(r"[Aa]ctivation [Mm]emory[^0-9]*([0-9]+)", text))
    ]
    return sizes[-1] if sizes else None
