"""Engines, really built: TensorRT-RTX needs no GPU for that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
pytest.importorskip("tensorrt_rtx_bindings", reason="needs pip install 'fusematte[tensorrt-rtx]'")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from fusematte.cli import main  # noqa: E402
from fusematte.cpp_ext import guided_coefficients  # noqa: E402
from fusematte.engine.errors import BackendError, ExportError, ModelError  # noqa: E402
from fusematte.engine.models import load_bundle  # noqa: E402
from fusematte.engine.refine import EPSILON, RADIUS  # noqa: E402
from fusematte.export import exporter  # noqa: E402
from fusematte.export.build_engine import Engine, Sizes, build_engine  # noqa: E402
from fusematte.export.graph import simplify, to_half  # noqa: E402
from fusematte.export.guided_filter import (  # noqa: E402
    GUIDED_FILTERS,
    add_guided_filter,
    without_guided_filter,
)

STATIC = Sizes(least=(96, 160), best=(96, 160), most=(96, 160))
DYNAMIC = Sizes(least=(64, 96), best=(96, 160), most=(192, 320))
SLACK = 1.1
"""Engines may have a tenth more kernels, and memory, than when these bounds were measured."""


@pytest.fixture(scope="module")
def half() -> onnx.ModelProto:
    """The shipped model, ready for an engine."""
    return to_half(simplify(onnx.load(load_bundle().file)))


def build(half: onnx.ModelProto, kind: str, sizes: Sizes = STATIC) -> Engine:
    return build_engine(add_guided_filter(half, kind), "tensorrt-rtx", sizes)


@pytest.mark.parametrize("sizes", [STATIC, DYNAMIC], ids=["static", "dynamic"])
@pytest.mark.parametrize("kind", GUIDED_FILTERS)
def test_engines_are_built_and_fused(half: onnx.ModelProto, kind: str, sizes: Sizes) -> None:
    engine = build(half, kind, sizes)
    convolutions = sum(node.op_type in {"Conv", "ConvTranspose"} for node in half.graph.node)
    weights = sum(len(tensor.raw_data) for tensor in half.graph.initializer)
    assert len(engine.plan) > weights
    # Everything between two convolutions is fused into them, but for a few layouts and heads.
    assert sum(engine.kernels.values()) < SLACK * (convolutions * 1.6 + 40)
    assert engine.kernels.get("custom_layer", 0) == (kind == "plugin")
    assert engine.activation_bytes is not None
    height, width = sizes.most
    assert 0 < engine.activation_bytes < 80e6 + 4 * 128 * height * width
    assert {"SM75", "SM89", "SM120"} <= set(engine.architectures)


def test_the_second_build_is_the_same(half: onnx.ModelProto) -> None:
    """But for the order in which TensorRT lists the outputs, which it keeps by address."""
    first, second = (np.frombuffer(build(half, "external").plan, np.uint8) for _ in range(2))
    assert len(first) == len(second)
    assert np.count_nonzero(first != second) < 2e-4 * len(first)


def test_native_filter_gives_the_kernels_numbers(half: onnx.ModelProto) -> None:
    filtered = add_guided_filter(half, "native")
    onnx.checker.check_model(filtered, full_check=True)
    rng = np.random.default_rng(0)
    patches = rng.random((1, 3, 6, 10), np.float32).repeat(16, 2).repeat(16, 3)
    feeds = {"image": patches, "guide": rng.random((1, 1, 96, 160), np.float32)}
    if load_bundle().takes_previous:
        feeds["previous"] = feeds["guide"].copy()
    session = onnxruntime.InferenceSession(
        filtered.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    alpha, slope, offset = session.run(["alpha", "slope", "offset"], feeds)
    guide, alpha = feeds["guide"][0, 0], alpha[0, 0]
    expected, _ = guided_coefficients(guide, alpha, RADIUS, EPSILON)
    np.testing.assert_allclose(slope[0, 0], expected, atol=2e-4)
    np.testing.assert_allclose(offset[0, 0], alpha - slope[0, 0] * guide, atol=1e-6)


@pytest.mark.parametrize("kind", GUIDED_FILTERS)
def test_the_filter_comes_off_again(half: onnx.ModelProto, kind: str) -> None:
    plain = without_guided_filter(add_guided_filter(half, kind))
    for part in ("node", "input", "output"):
        assert getattr(plain.graph, part) == getattr(half.graph, part)


def test_a_network_that_is_refused() -> None:
    shape = [1, 1, 32, 32]
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("alpha", TensorProto.FLOAT, shape)
    node = helper.make_node("Frobnicate", ["image"], ["alpha"], "odd", domain="elsewhere")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    graph = helper.make_graph([node], "odd", [value], [result])
    model = helper.make_model(graph, opset_imports=opsets)
    sizes = Sizes(least=(32, 32), best=(32, 32), most=(32, 32))
    with pytest.raises(ExportError, match=r"cannot read the network: .*Frobnicate"):
        build_engine(model, "tensorrt-rtx", sizes)


def test_a_flavour_that_is_not_installed(
    half: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusematte.engine.backends import tensorrt_library

    monkeypatch.setitem(tensorrt_library.MODULES, "tensorrt", ("tensorrt_of_nobody",))
    with pytest.raises(BackendError, match="pip install tensorrt"):
        build_engine(half, "tensorrt", STATIC)


def test_the_command_keeps_an_engine_that_was_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporter, "FRAMES", 2)
    folder = tmp_path / "engine"
    command = ["export", load_bundle().name, "--to", "tensorrt-rtx", "--precision", "fp16"]
    assert main([*command, "--sizes", "96x64..256x160", "-o", str(folder)]) == 0
    told = json.loads((folder / "manifest.json").read_text("utf-8"))["export"]
    assert told["engine"]["profile"]["most"] == [160, 256]
    assert told["engine"]["guided_filter"] == "external"
    assert 0 < told["accuracy"]["mean"] < 0.002
    if not told["engine_ran"]:
        assert "the engine itself has not run" in capfd.readouterr().out
        assert told["accuracy"]["ran"] == "model.onnx"
    clip = tmp_path / "a.png"
    clip.touch()
    if not told["engine_ran"]:
        assert main(["matte", str(clip), "-o", str(tmp_path / "m"), "--model", str(folder)]) == 8
        said = capfd.readouterr().err
        for name in ("tensorrt: no NVIDIA driver", "openvino: it reads", "onnxruntime: it reads"):
            assert name in said
    plan = folder / "model.engine"
    plan.write_bytes(plan.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.engine: its SHA-256"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--size", "100x64"), "multiples of 32"),
        (("--size", "large"), "is no size"),
        (("--sizes", "96x64"), "is no range"),
        (("--sizes", "256x64..96x64"), "larger than the second"),
    ],
)
def test_sizes_that_cannot_be(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: tuple[str, str], reason: str
) -> None:
    command = ["export", load_bundle().name, "--to", "tensorrt-rtx", "-o", str(tmp_path / "e")]
    assert main([*command, *options]) == 2
    assert reason in capfd.readouterr().err
    assert main([*command[:3], "onnx", *command[4:], "--size", "96x64"]) == 2
    assert "for TensorRT" in capfd.readouterr().err
