"""Adds the int8 network to a bundle: ``python -m fusematte.export.add_int8 --frames VIDEO...``.

The bundle keeps its float network; OpenVINO runs the int8 network where it is faster.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from fusematte.engine.backends.openvino_backend import OpenVinoBackend
from fusematte.engine.media.files import part_of
from fusematte.engine.models import DEFAULT_MODEL, Bundle, load_bundle, sha256_of
from fusematte.export.exporter import Request
from fusematte.export.verify import Accuracy, check

NAME = "model-int8.onnx"
FRAMES = 96
"""Every other frame calibrates, the rest are for the check."""


def add_int8(bundle: Bundle, frames: Sequence[Path]) -> Accuracy:
    """Quantises the bundle's network on real frames and adds it if its accuracy is within bounds.

    Raises:
        ExportError: the accuracy is out of bounds; nothing is kept.
        InputError: the frames cannot be read.
    """
    request = Request(
        bundle=bundle, target="onnx", precision="int8", frames=tuple(frames), count=FRAMES
    )
    file = bundle.folder / NAME
    partial = part_of(file).with_suffix(".part.onnx")  # OpenVINO needs the suffix
    try:
        onnx.save_model(request.network(), partial)
        backend = OpenVinoBackend(replace(bundle, file=partial))
        accuracy = request.reference.compare(backend.infer)
        check(accuracy, backend.precision)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    _register(bundle, file, accuracy)
    return accuracy


def _register(bundle: Bundle, file: Path, accuracy: Accuracy) -> None:
    others = bundle.manifest.get("files", {})
    manifest = bundle.manifest | {
        "files": others | {file.name: sha256_of(file)},
        "int8": {"file": file.name, "accuracy": accuracy.as_dict()},
    }
    path = bundle.folder / "manifest.json"
    path.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m fusematte.export.add_int8")
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="shipped, or a folder")
    parser.add_argument("--frames", nargs="+", type=Path, required=True, metavar="VIDEO")
    args = parser.parse_args()
    print(add_int8(load_bundle(args.model), args.frames))


if __name__ == "__main__":
    main()
