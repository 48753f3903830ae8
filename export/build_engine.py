"""Building of TensorRT engines, for tensorrt 10 and 11 and for tensorrt_rtx.

Networks are strongly typed: each layer computes in the type of its tensors in the ONNX graph.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from fusematte.engine.backends.tensorrt.library import installed, load_library
from fusematte.engine.errors import BackendError, ExportError, FuseMatteError
from fusematte.engine.models import Bundle
from fusematte.export.graph import simplify, to_half

ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "SYSTEMROOT", "TEMP")
"""Environment variables passed to the builder's process: others would change its memory layout."""
ERRORS: dict[str, type[FuseMatteError]] = {k.__name__: k for k in (BackendError, ExportError)}
"""Errors that the builder's process reports."""

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The range of (height, width) of an engine; it is optimised for ``best``."""

    least: Size
    best: Size
    most: Size


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A serialised engine and its builder's report.

    kernels: number of kernels of each kind after fusion (``kgen``: generated, ``correlation``:
    convolutions, ``custom_layer``: plugins); activation_bytes: memory of one execution context;
    architectures: the GPUs it runs on.
    """

    plan: bytes
    kernels: dict[str, int]
    activation_bytes: int | None
    architectures: list[str] | str
    version: str


def build_engine(model: onnx.ModelProto, flavour: str, sizes: Sizes) -> Engine:
    """Builds an engine; only ``tensorrt`` needs a GPU for that.

    Raises:
        BackendError: this flavour of TensorRT is not installed.
        ExportError: TensorRT refuses the network; the message contains its reason.
    """
    if flavour not in installed():
        load_library(flavour)  # raises, with how to install it
    with TemporaryDirectory(prefix="fusematte-") as name:
        folder = Path(name)
        (folder / "network.onnx").write_bytes(model.SerializeToString())
        task = {"flavour": flavour, "shapes": [sizes.least, sizes.best, sizes.most]}
        (folder / "task.json").write_text(json.dumps(task), "utf-8")
        report = _run_builder(folder, flavour)
        return Engine(plan=(folder / "model.engine").read_bytes(), **report)


def _run_builder(folder: Path, flavour: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "fusematte.export.engine_builder", str(folder)]
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=kept | {"PYTHONHASHSEED": "0"}
    )
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    except FileNotFoundError:
        lines = done.stderr.strip().splitlines()
        raise ExportError(
            f"{flavour} crashed while building the engine (exit code {done.returncode}): "
            f"{lines[-1] if lines else 'no message'}"
        ) from None
    if "error" in report:
        raise ERRORS[report["error"]](report["message"])
    return report


def build_for_bundle(bundle: Bundle, flavour: str) -> bytes:
    """An fp16 engine of a bundle for this machine, for all ``default_sizes``."""
    model = to_half(simplify(onnx.load(bundle.file)))
    return build_engine(model, flavour, default_sizes(bundle)).plan


def default_sizes(bundle: Bundle) -> Sizes:
    """The range of network sizes for all frames, including portrait formats and stills."""
    largest = 4 * max(bundle.default_size)
    return Sizes(
        least=(bundle.multiple, bundle.multiple),
        best=bundle.default_size,
        most=(largest, largest),
    )
