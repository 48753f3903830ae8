"""Peers given as ONNX are asked as their authors do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fusematte.engine.errors import UsageError  # noqa: E402

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def score_peer() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))  # its neighbours
    spec = importlib.util.spec_from_file_location("score_peer", BENCHMARKS / "score_peer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(BENCHMARKS))
    return module


def save(path: Path, nodes: list, inputs: dict, outputs: list, constants: dict) -> Path:  # type: ignore[type-arg]
    """A network of float tensors."""
    graph = helper.make_graph(
        nodes,
        "peer",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list("nchw")) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(model, path)
    return path


def gradient(height: int = 60, width: int = 96) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    return np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()


def test_robust_video_matting_keeps_its_states(score_peer: ModuleType, tmp_path: Path) -> None:
    # Its alpha is the red plane plus the first state, which each frame raises by the ratio.
    nodes = [
        helper.make_node("Gather", ["src", "red"], ["plane"], axis=1),
        helper.make_node("Add", ["plane", "r1i"], ["pha"]),
        helper.make_node("Identity", ["src"], ["fgr"]),
        helper.make_node("Add", ["r1i", "downsample_ratio"], ["r1o"]),
        *(helper.make_node("Identity", [f"r{i}i"], [f"r{i}o"]) for i in (2, 3, 4)),
    ]
    states = {f"r{i}i": ["a", "b", "c", "d"] for i in range(1, 5)}
    image = {"src": [1, 3, "H", "W"], **states, "downsample_ratio": [1]}
    made = dict.fromkeys(("fgr", "pha", "r1o", "r2o", "r3o", "r4o"))
    path = save(tmp_path / "rvm.onnx", nodes, image, made, {"red": np.array([0], np.int64)})
    kind, model = score_peer.open_peer(path)
    assert kind == "RobustVideoMatting"
    picture = gradient(60, 1024)
    red = picture[..., 0] / 255
    for state in (0, 0.5, 1.0):
        np.testing.assert_allclose(model.alpha(picture), red + state, atol=1e-6)
    model.restart()
    np.testing.assert_allclose(model.alpha(picture), red, atol=1e-6)


def test_modnet_sees_minus_one_to_one_at_512(score_peer: ModuleType, tmp_path: Path) -> None:
    # Its alpha is half of the mean over the channels plus a half: the picture's gray.
    nodes = [
        helper.make_node("ReduceMean", ["input", "channels"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "half"], ["output"]),
    ]
    constants = {"channels": np.array([1], np.int64), "half": np.float32(0.5)}
    path = save(tmp_path / "modnet.onnx", nodes, {"input": [1, 3, "H", "W"]}, ["output"], constants)
    kind, model = score_peer.open_peer(path)
    assert kind == "MODNet"
    picture = gradient(256, 384)
    np.testing.assert_allclose(model.alpha(picture), picture[..., 0] / 255, atol=0.02)


def test_media_pipe_keeps_colours_last(score_peer: ModuleType, tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x", "channels"], ["y"], keepdims=1)]
    path = save(
        tmp_path / "selfie.onnx", nodes, {"x": [1, 144, 256, 3]}, ["y"],
        {"channels": np.array([3], np.int64)},
    )  # fmt: skip
    kind, model = score_peer.open_peer(path)
    assert kind == "MediaPipe"
    picture = gradient()
    np.testing.assert_allclose(model.alpha(picture), picture[..., 0] / 255, atol=0.02)


def test_an_unknown_interface_is_refused(score_peer: ModuleType, tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    path = save(tmp_path / "other.onnx", nodes, {"x": [7]}, ["y"], {})
    with pytest.raises(UsageError, match=r"other.onnx: inputs .* no interface"):
        score_peer.open_peer(path)
