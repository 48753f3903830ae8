"""Engines, really built: TensorRT-RTX needs no GPU for that."""

from __future__ import annotations

import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.slow

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
pytest.importorskip("tensorrt_rtx_bindings", reason="needs pip install 'fusematte[tensorrt-rtx]'")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from tests.device import compiled_for_the_host  # noqa: E402

from fusematte.cli import main  # noqa: E402
from fusematte.cpp_ext import guided_alpha  # noqa: E402
from fusematte.engine.backends.tensorrt import library as tensorrt_library  # noqa: E402
from fusematte.engine.backends.tensorrt import plugin as tensorrt_plugin  # noqa: E402
from fusematte.engine.cuda.driver import leave_stream, serve_stream  # noqa: E402
from fusematte.engine.errors import BackendError, ExportError, ModelError  # noqa: E402
from fusematte.engine.matting.refine import CERTAIN, COLOR_EPSILON, COLOR_RADIUS  # noqa: E402
from fusematte.engine.models import load_bundle  # noqa: E402
from fusematte.export import exporter  # noqa: E402
from fusematte.export.build_engine import Engine, Sizes, build_engine  # noqa: E402
from fusematte.export.commands.export import GUIDED_FILTERS  # noqa: E402
from fusematte.export.graph import simplify, to_half  # noqa: E402
from fusematte.export.guided_filter import add_guided_filter, without_guided_filter  # noqa: E402
from fusematte.export.to_onnx import OPSET, OUTPUTS, RuntimeNetwork  # noqa: E402
from fusematte.training.network import build_network  # noqa: E402

STATIC = Sizes(least=(96, 160), best=(96, 160), most=(96, 160))
DYNAMIC = Sizes(least=(64, 96), best=(96, 160), most=(192, 320))
PAPER_KERNELS, PAPER_BYTES = 360, 1760
"""Of the article's network: kernels, and bytes of activations for each pixel."""
FILTER_KERNELS = 60
"""Of the guided filter in colour from standard layers."""
SLACK = 1.1
"""Engines may have a tenth more kernels, and memory, than when these bounds were measured."""


@pytest.fixture(scope="module")
def half() -> onnx.ModelProto:
    """The shipped model, ready for an engine."""
    return to_half(simplify(onnx.load(load_bundle().file)))


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """The article's network with random weights: there are no others.

    By PyTorch's older exporter, which needs a quarter of the time for its 700 layers.
    """
    file = tmp_path_factory.mktemp("paper") / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            RuntimeNetwork(build_network("paper")).eval(),
            (torch.rand(1, 3, 96, 160),),
            str(file),
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamic_axes={name: {2: "height", 3: "width"} for name in ("image", *OUTPUTS)},
            opset_version=OPSET,
            dynamo=False,
        )
    return to_half(simplify(onnx.load(file)))


def build(half: onnx.ModelProto, kind: str, sizes: Sizes = STATIC) -> Engine:
    return build_engine(add_guided_filter(half, kind), "tensorrt-rtx", sizes)


def build_all(half: onnx.ModelProto, sizes: Sizes) -> dict[str, Engine]:
    """An engine for each guided filter, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        engines = pool.map(lambda kind: build(half, kind, sizes), GUIDED_FILTERS)
        return dict(zip(GUIDED_FILTERS, engines, strict=True))


@pytest.mark.parametrize("sizes", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_paper_is_built_and_fused(paper: onnx.ModelProto, sizes: Sizes) -> None:
    engines = build_all(paper, sizes)
    kernels = {kind: sum(engine.kernels.values()) for kind, engine in engines.items()}
    weights = sum(len(tensor.raw_data) for tensor in paper.graph.initializer)
    height, width = sizes.most
    for kind, engine in engines.items():
        assert len(engine.plan) > weights
        of_filter = FILTER_KERNELS if kind == "native" else 0
        assert kernels[kind] < SLACK * (PAPER_KERNELS + of_filter)
        assert engine.kernels.get("custom_layer", 0) == (kind == "plugin")
        assert engine.activation_bytes is not None
        assert 0 < engine.activation_bytes < SLACK * PAPER_BYTES * height * width
        assert {"SM75", "SM89", "SM120"} <= set(engine.architectures)
    assert kernels["external"] < kernels["plugin"] < kernels["native"]


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


@pytest.mark.parametrize("sizes", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_the_second_build_is_the_same(
    half: onnx.ModelProto, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, whatever its environment: each is built in a process of its own."""
    first = build(half, "native", sizes)
    monkeypatch.setenv("FUSEMATTE_TEST", "x" * 5000)
    assert build(half, "native", sizes) == first


def test_a_builder_that_crashes_is_told_of(
    half: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "tensorrt_rtx_bindings.py"
    library.write_text("import os, sys; print('gone', file=sys.stderr); sys.stderr.flush()\n")
    library.write_text(library.read_text() + "os._exit(11)\n")
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{path}")
    monkeypatch.setitem(tensorrt_library.MODULES, "tensorrt-rtx", ("tensorrt_rtx_bindings",))
    with pytest.raises(ExportError, match=r"crashed while building .*exit code 11\): gone"):
        build(half, "external")


def test_native_filter_gives_the_kernels_numbers(half: onnx.ModelProto) -> None:
    filtered = add_guided_filter(half, "native")
    onnx.checker.check_model(filtered, full_check=True)
    rng = np.random.default_rng(0)
    patches = rng.random((1, 3, 6, 10), np.float32).repeat(16, 2).repeat(16, 3)
    feeds = {"image": patches, "guide": rng.random((1, 3, 96, 160), np.float32)}
    if load_bundle().takes_previous:
        feeds["previous"] = feeds["guide"][:, :1].copy()
    session = onnxruntime.InferenceSession(
        filtered.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    alpha, guided = session.run(["alpha", "guided"], feeds)
    expected = guided_alpha(
        feeds["guide"][0], alpha[0, 0], COLOR_RADIUS, COLOR_EPSILON, certain=CERTAIN
    )
    np.testing.assert_allclose(guided[0, 0], expected, atol=2e-4)


@pytest.mark.parametrize("kind", GUIDED_FILTERS)
def test_the_filter_comes_off_again(half: onnx.ModelProto, kind: str) -> None:
    plain = without_guided_filter(add_guided_filter(half, kind))
    for part in ("node", "input", "output"):
        assert getattr(plain.graph, part) == getattr(half.graph, part)


def test_the_layer_runs_on_its_streams_device(tmp_path: Path) -> None:
    """TensorRT's own plugin class, called as an engine calls it."""
    library = tensorrt_library.load_library("tensorrt-rtx")
    layer = tensorrt_plugin.plugin_class(library)(2, 1e-3, 0.1)
    device = compiled_for_the_host(tmp_path)
    rng = np.random.default_rng(0)
    guide, alpha = (rng.random((2, channels, 34, 70), np.float32) for channels in (3, 1))
    guided = np.full_like(alpha, np.nan)
    described = [SimpleNamespace(dims=array.shape) for array in (guide, alpha)]
    addresses = [guide.ctypes.data, alpha.ctypes.data], [guided.ctypes.data]
    serve_stream(7, device)
    layer.enqueue(described, described, *addresses, 0, 7)
    for index in range(2):
        expected = guided_alpha(guide[index], alpha[index, 0], 2, 1e-3, certain=0.1)
        np.testing.assert_allclose(guided[index, 0], expected, atol=1e-5)
    leave_stream(7)
    with pytest.raises(KeyError):
        layer.enqueue(described, described, *addresses, 0, 7)


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
        assert "the engine itself was not run" in capfd.readouterr().out
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
        (("--size", "large"), "is not a size"),
        (("--sizes", "96x64"), "is not a range"),
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
