"""ONNX files: the same numbers as PyTorch, at any size, and back again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import TensorProto  # noqa: E402
from tests.export.test_bundle import export_once, random_network  # noqa: E402

from fusematte.engine.models import load_bundle  # noqa: E402
from fusematte.export.to_onnx import OPSET, OUTPUTS  # noqa: E402
from fusematte.training.network import LateFusionNetwork, build_network  # noqa: E402
from fusematte.training.weights import load_onnx_weights  # noqa: E402

torch.set_num_threads(1)  # on busy cores two threads wait for one another


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[LateFusionNetwork, Path]:
    """A network and its file, as ``export_onnx`` wrote it for a bundle."""
    network, folder = export_once(tmp_path_factory.getbasetemp())
    return network, folder / "model.onnx"


@pytest.fixture(scope="module")
def model(exported: tuple[LateFusionNetwork, Path]) -> onnx.ModelProto:
    return onnx.load(exported[1])


@pytest.fixture(scope="module")
def read_back(exported: tuple[LateFusionNetwork, Path]) -> LateFusionNetwork:
    network = random_network(1)
    load_onnx_weights(network, exported[1])
    return network


def test_weights_come_back(
    exported: tuple[LateFusionNetwork, Path], read_back: LateFusionNetwork
) -> None:
    original, got = exported[0].state_dict(), read_back.state_dict()
    compared = [
        name
        for name in original
        # Counters and the heads of the side losses are not in the file.
        if "num_batches" not in name
        and not any(f".blocks.{block}.head." in name for block in (0, 1))
    ]
    assert len(compared) > 50
    for name in compared:
        expected = original[name]
        if expected.ndim >= 2:  # stored as fp16
            expected = expected.half().float()
        assert torch.equal(got[name], expected), name


@pytest.mark.parametrize("size", [(64, 96), (160, 32)])
def test_openvino_gives_pytorchs_numbers(
    exported: tuple[LateFusionNetwork, Path], read_back: LateFusionNetwork, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.random((2, 3, *size), np.float32),
        "previous": rng.random((2, 1, *size), np.float32),
    }
    compare(exported[1], read_back, inputs)


def test_shipped_model_gives_pytorchs_numbers() -> None:
    path = load_bundle("edge").file
    network = build_network("edge").eval()
    load_onnx_weights(network, path)
    rng = np.random.default_rng(0)
    patches = rng.random((1, 3, 4, 6), np.float32).repeat(16, 2).repeat(16, 3)
    inputs = {"image": patches, "previous": patches[:, :1].copy()}
    compare(path, network, inputs, tolerance=2e-3)


def compare(
    path: Path,
    network: LateFusionNetwork,
    inputs: dict[str, NDArray[np.float32]],
    tolerance: float = 1e-4,
) -> None:
    """The file in OpenVINO, in f32, against the network in PyTorch."""
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    results = openvino.Core().compile_model(path, "CPU", options)(inputs)
    with torch.no_grad():
        prediction = network(*(torch.from_numpy(value) for value in inputs.values()))
    for name in OUTPUTS:
        expected = getattr(prediction, name).numpy()
        assert expected.std() > 1e-3
        np.testing.assert_allclose(results[name], expected, atol=tolerance)


def test_rounding_the_weights_changes_little(
    exported: tuple[LateFusionNetwork, Path], read_back: LateFusionNetwork
) -> None:
    torch.manual_seed(2)
    image, previous = torch.rand(1, 3, 64, 64), torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        difference = exported[0](image, previous).alpha - read_back(image, previous).alpha
    assert 0 < difference.abs().max() < 0.02


def test_graph_has_the_documented_inputs_and_outputs(model: onnx.ModelProto) -> None:
    def shapes(values: list[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
        return {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in values
        }

    inputs, outputs = shapes(list(model.graph.input)), shapes(list(model.graph.output))
    assert {name: shape[1] for name, shape in inputs.items()} == {"image": 3, "previous": 1}
    assert list(outputs) == list(OUTPUTS) == ["alpha", "foreground", "background", "beta"]
    for batch, _, height, width in inputs.values():
        assert {type(axis) for axis in (batch, height, width)} == {str}  # dynamic
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]


def test_weights_are_stored_in_half_and_used_in_full(model: onnx.ModelProto) -> None:
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    for tensor in model.graph.initializer:
        if tensor.data_type in floats and len(tensor.dims) >= 2:
            assert tensor.data_type == TensorProto.FLOAT16, tensor.name
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


def test_file_says_nothing_of_the_machine_that_made_it(
    exported: tuple[LateFusionNetwork, Path],
) -> None:
    content = exported[1].read_bytes()
    for trace in (b"site-packages", b".py", str(Path.cwd()).encode()):
        assert trace not in content


def test_a_file_of_another_network_is_refused(
    exported: tuple[LateFusionNetwork, Path], model: onnx.ModelProto, tmp_path: Path
) -> None:
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    kept = [t for t in model.graph.initializer if "fusion.head.weight" not in t.name]
    del smaller.graph.initializer[:]
    smaller.graph.initializer.extend(kept)
    onnx.save_model(smaller, tmp_path / "a.onnx")
    with pytest.raises(
        RuntimeError, match=r"lacks the parameter fusion\.head\.weight \(1 missing\)"
    ):
        load_onnx_weights(exported[0], tmp_path / "a.onnx")
