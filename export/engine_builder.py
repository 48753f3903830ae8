"""Builds a TensorRT engine in its own process: ``python -m fusematte.export.engine_builder DIR``.

TensorRT orders parts of an engine by their memory addresses: a process that does nothing else, and
without address randomisation, gives the same bytes each time.  The caller is also safe from its
crashes and its memory use.

It reads ``network.onnx`` and ``task.json`` in the folder, and writes ``model.engine`` and
``report.json``.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from fusematte.engine.backends.tensorrt.library import load_library, make_logger
from fusematte.engine.backends.tensorrt.plugin import register_plugin
from fusematte.engine.errors import ExportError, FuseMatteError

log = logging.getLogger(__name__)


_NOT_RANDOM = 0x0040000
"""ADDR_NO_RANDOMIZE of Linux's <sys/personality.h>."""


def fix_addresses() -> None:
    """Restarts this process without address randomisation, if the system allows it."""
    if sys.platform != "linux":
        return
    change = ctypes.CDLL(None).personality
    current = change(0xFFFFFFFF)
    if current != -1 and not current & _NOT_RANDOM and change(current | _NOT_RANDOM) != -1:
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])


def main() -> None:
    """Builds the folder's engine; errors are written to the report."""
    fix_addresses()
    folder = Path(sys.argv[1])
    task = json.loads((folder / "task.json").read_text("utf-8"))
    try:
        network = (folder / "network.onnx").read_bytes()
        plan, report = build(network, task["flavour"], task["shapes"])
        (folder / "model.engine").write_bytes(plan)
    except FuseMatteError as error:
        report = {"error": type(error).__name__, "message": str(error)}
    (folder / "report.json").write_text(json.dumps(report), "utf-8")


def build(model: bytes, flavour: str, sizes: list[tuple[int, int]]) -> tuple[bytes, dict[str, Any]]:
    """Builds an engine of a serialised ONNX model; returns it with the other fields of
    ``build_engine.Engine``.

    sizes: (height, width): the smallest, the one to optimise for, the largest.

    Raises:
        BackendError: this flavour of TensorRT is not installed.
        ExportError: TensorRT refuses the network; the message contains its reason.
    """
    library = load_library(flavour)
    logger = make_logger(library)
    if flavour == "tensorrt-rtx":
        _make_findable(library)
    register_plugin(library)
    builder = library.Builder(logger)
    network = builder.create_network(_strongly_typed(library))
    parser = library.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors)
        raise ExportError(f"{flavour} cannot read the network: {reasons}")
    config = _configure(library, builder, network, sizes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{flavour} cannot build the engine: {logger.errors()}")
    return bytes(plan), {
        "kernels": _kernels(logger),
        "activation_bytes": _activation_bytes(logger),
        "architectures": _architectures(library, config),
        "version": library.__version__,
    }


def _strongly_typed(library: Any) -> int:  # noqa: ANN401
    """The creation flag for strongly typed networks; TensorRT 11 has no others, and no flag."""
    flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(library: Any, builder: Any, network: Any, sizes: Any) -> Any:  # noqa: ANN401
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        channels = tensor.shape[1]
        shapes = [(1, channels, *size) for size in sizes]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    return config


def _architectures(library: Any, config: Any) -> list[str] | str:  # noqa: ANN401
    """The compute capabilities that the engine runs on, as the library reports them."""
    if not hasattr(config, "num_compute_capabilities"):
        return "this machine's GPU"
    chosen = [
        str(config.get_compute_capability(index)).rpartition(".")[2]
        for index in range(config.num_compute_capabilities)
    ]
    return chosen or [n for n in dir(library.ComputeCapability) if n.startswith("SM")]


def _make_findable(library: Any) -> None:  # noqa: ANN401
    """Links libtensorrt_rtx.so, which Python plugins load, to the wheel's libtensorrt_rtx.so.1."""
    folder = Path(library.__file__).parent.with_name("tensorrt_rtx_libs")
    for versioned in folder.glob("libtensorrt_rtx.so.1"):
        plain = versioned.with_suffix("")
        if not plain.exists():
            try:
                plain.symlink_to(versioned.name)
            except OSError as error:
                log.warning("%s cannot be linked (%s), so plugins cannot be built", plain, error)
        ctypes.CDLL(str(versioned), mode=ctypes.RTLD_GLOBAL)


def _kernels(logger: Any) -> dict[str, int]:  # noqa: ANN401
    """The number of kernels by kind, from the builder's log, without synchronisation."""
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


if __name__ == "__main__":
    main()
