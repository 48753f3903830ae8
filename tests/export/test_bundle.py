"""Bundles as the exporter writes them and the engine takes them."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from fusematte.engine.errors import ModelError  # noqa: E402
from fusematte.engine.matting.matter import Matter  # noqa: E402
from fusematte.engine.models import load_bundle  # noqa: E402
from fusematte.engine.pixels.color import frame_from_rgb  # noqa: E402
from fusematte.export.bundle import DEFAULT_SIZE, write_bundle  # noqa: E402
from fusematte.training.network import LateFusionNetwork, NetworkConfig, count_macs  # noqa: E402

torch.set_num_threads(1)  # on busy cores two threads wait for one another

TRAINING = {"config": {"network": "small"}, "step": 7, "samples": 14}

# Every kind of layer of the edge network, fewer of each: the export takes as long as its nodes.
SMALL = NetworkConfig(
    name="small",
    encoder="efficientnet-lite0",
    decoder_widths=(16, 8, 8),
    output_shuffle=4,
    fusion_widths=(8,),
    previous_alpha=True,
)


def random_network(seed: int) -> LateFusionNetwork:
    """A network with nothing at its initial value: batch norms and biases neither."""
    torch.manual_seed(seed)
    network = LateFusionNetwork(SMALL).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.ndim == 1:
                value.normal_(0.1, 0.3)
    return network


@functools.cache
def export_once(temporary: Path) -> tuple[LateFusionNetwork, Path]:
    """A network and its bundle; exported once for all tests, it takes a while."""
    network = random_network(0)
    folder = temporary / "bundles" / "small"
    write_bundle(network.train(), folder, version="1.2.3", training=TRAINING)
    return network.eval(), folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> LateFusionNetwork:
    return export_once(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_once(tmp_path_factory.getbasetemp())[1]


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(written, tmp_path / "small"))


def change(folder: Path, **values: object) -> None:
    path = folder / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(manifest | values), "utf-8")


def test_engine_takes_what_the_exporter_writes(written: Path) -> None:
    bundle = load_bundle(written)
    assert (bundle.name, bundle.version) == ("small", "1.2.3")
    assert (bundle.multiple, bundle.default_size) == (32, DEFAULT_SIZE)
    assert bundle.takes_previous
    assert sorted(file.name for file in written.iterdir()) == ["manifest.json", "model.onnx"]


def test_manifest_tells_what_the_network_is(written: Path, network: LateFusionNetwork) -> None:
    manifest = load_bundle(written).manifest
    digest = hashlib.sha256((written / "model.onnx").read_bytes()).hexdigest()
    assert manifest["sha256"] == digest
    assert manifest["parameters"] == sum(p.numel() for p in network.parameters())
    assert manifest["macs_at_default_size"] == count_macs(network, torch.zeros(1, 3, *DEFAULT_SIZE))
    assert manifest["provenance"]["training"] == TRAINING
    assert manifest["inputs"]["image"]["shape"] == ["N", 3, "H", "W"]
    assert manifest["inputs"]["previous"]["first_frame"] == 0
    assert set(manifest["outputs"]) == {"alpha", "foreground", "background", "beta"}
    assert all(output["range"] == [0, 1] for output in manifest["outputs"].values())


def test_manifest_tells_no_folder_of_the_machine_that_trained(
    tmp_path: Path, network: LateFusionNetwork
) -> None:
    run = TRAINING | {"init": str(tmp_path / "run.safetensors")}
    write_bundle(network, tmp_path, version="1", training={"mean_of": [run, {"init": "edge"}]})
    made = json.loads((tmp_path / "manifest.json").read_text())["provenance"]["training"]
    assert [one["init"] for one in made["mean_of"]] == ["run.safetensors", "edge"]


def test_matter_runs_the_bundle_and_gives_the_networks_alpha(
    written: Path, network: LateFusionNetwork
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*DEFAULT_SIZE, 3), np.uint8)
    with Matter(written) as matter:
        alpha = matter(frame_from_rgb(picture)).alpha
    with torch.no_grad():
        image = torch.from_numpy(picture.transpose(2, 0, 1)[None] / 255).float()
        expected = network(image).alpha[0, 0].numpy()
    # The frame holds 8-bit YCbCr, the engine may compute in bf16.
    assert expected.std() > 0.005
    assert np.abs(alpha - expected).max() < 0.05
    assert np.corrcoef(alpha.ravel(), expected.ravel())[0, 1] > 0.95


def test_tampered_network(folder: Path) -> None:
    file = folder / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "values",
    [{"format": 2}, {"sha256": "0" * 64}, {"file": "other.onnx"}, {"default_size": [288, 512]}],
    ids=lambda values: next(iter(values)),
)
def test_wrong_manifest(folder: Path, values: dict[str, object]) -> None:
    change(folder, **values)
    with pytest.raises(ModelError, match="small"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_bundle(folder)
