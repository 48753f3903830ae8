"""``fusematte export``: every format runs, proves itself, and is kept only then."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("skimage")

from onnx import TensorProto  # noqa: E402
from tests.export.test_bundle import SMALL, export_once  # noqa: E402
from tests.helpers import make_clip  # noqa: E402

from fusematte.cli import main  # noqa: E402
from fusematte.engine.backends import create_backend  # noqa: E402
from fusematte.engine.errors import ExportError, ModelError  # noqa: E402
from fusematte.engine.matting.matter import Matter  # noqa: E402
from fusematte.engine.models import load_bundle  # noqa: E402
from fusematte.engine.pixels.color import frame_from_rgb  # noqa: E402
from fusematte.export import exporter, verify  # noqa: E402
from fusematte.export.add_int8 import add_int8  # noqa: E402
from fusematte.export.frames import load_samples  # noqa: E402
from fusematte.export.graph import fp32_islands, simplify, to_half  # noqa: E402
from fusematte.export.verify import Reference, check, transition_band  # noqa: E402
from fusematte.training.network import CONFIGS  # noqa: E402
from fusematte.training.weights import load_network  # noqa: E402

torch.set_num_threads(1)  # on busy cores two threads wait for one another


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose default size is small as well."""
    source = export_once(tmp_path_factory.getbasetemp())[1]
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("export") / "small"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["default_size"] = {"height": 96, "width": 96}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.fixture(autouse=True)
def known_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "small", SMALL)
    monkeypatch.setattr(exporter, "FRAMES", 4)


def export(model: Path, folder: Path, target: str, precision: str, *more: str) -> dict[str, Any]:
    command = ["export", "-q", str(model), "--to", target, "--precision", precision]
    assert main([*command, "-o", str(folder), *more]) == 0
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    return manifest


def clip(folder: Path) -> Path:
    return make_clip(folder / "clip.mp4", width=128, height=96, frames=8)


def fake_clock(monkeypatch: pytest.MonkeyPatch, *, int8: float, other: float) -> None:
    """Each turn of the comparison reads the clock around int8 and then around the other."""
    steps = itertools.cycle([0.0, int8, 0.0, other])
    times = itertools.accumulate(steps)
    monkeypatch.setattr(exporter.time, "perf_counter", lambda: next(times))


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_export_runs_and_tells_what_it_is(
    model: Path, tmp_path: Path, target: str, precision: str
) -> None:
    manifest = export(model, tmp_path / "out", target, precision)
    told = manifest["export"]
    assert (told["target"], told["precision"]) == (target, precision)
    assert told["source_sha256"] == load_bundle(model).manifest["sha256"]
    assert told["versions"]["onnx"] == onnx.__version__
    accuracy = told["accuracy"]
    assert accuracy["frames"] == 4  # two frames that no calibration saw, each twice
    assert 0 <= accuracy["mean"] <= accuracy["max"]  # fp32 may well be exact
    assert accuracy["mean"] <= accuracy["bound"] <= 0.002
    assert accuracy["backend"] == {"onnx": "onnxruntime", "openvino": "openvino"}[target]
    assert not (tmp_path / "out.part").exists()
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    with Matter(tmp_path / "out", backend=accuracy["backend"]) as ours, Matter(model) as theirs:
        frame = frame_from_rgb(picture)
        assert np.abs(ours(frame).alpha - theirs(frame).alpha).max() < 0.05


def test_int8_is_calibrated_and_timed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    # Random weights have no margin, and the times of so small a network are noise.
    monkeypatch.setitem(verify.BOUNDS, "int8", 0.1)
    fake_clock(monkeypatch, int8=1, other=2)
    manifest = export(model, tmp_path / "out", "openvino", "int8", "--frames", str(clip(tmp_path)))
    told = manifest["export"]
    assert told["accuracy"]["precision"] == "int8"
    assert told["accuracy"]["frames_from"] == ["clip.mp4"]
    assert set(told["speed"]["median_ms"]) > {"int8"}
    made = create_backend("auto", load_bundle(tmp_path / "out"))
    assert (made.name, made.precision) == ("openvino", "int8")


@pytest.mark.slow
def test_int8_beside_a_bundles_own_network(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is proved, registered with its hash, and left out of what is exported of the bundle."""
    pytest.importorskip("nncf")
    folder = Path(shutil.copytree(model, tmp_path / "small"))
    before = (folder / "manifest.json").read_text("utf-8")
    frames = [clip(tmp_path)]
    monkeypatch.setitem(verify.BOUNDS, "int8", 1e-9)
    with pytest.raises(ExportError, match="int8: alpha is off by"):
        add_int8(load_bundle(folder), frames)
    assert (folder / "manifest.json").read_text("utf-8") == before
    assert not list(folder.glob("*int8*"))

    monkeypatch.setitem(verify.BOUNDS, "int8", 0.1)
    accuracy = add_int8(load_bundle(folder), frames)
    assert 0 < accuracy.mean < 0.1
    made = load_bundle(folder)
    assert made.int8 == folder / "model-int8.onnx"
    assert "int8" not in export(folder, tmp_path / "out", "onnx", "fp32")
    assert load_bundle(tmp_path / "out").int8 is None
    made.int8.write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"model-int8\.onnx: its SHA-256"):
        load_bundle(folder)


def test_int8_that_is_no_faster_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setitem(verify.BOUNDS, "int8", 0.1)
    fake_clock(monkeypatch, int8=1, other=1)
    command = ["export", str(model), "--to", "openvino", "--precision", "int8"]
    assert main([*command, "--frames", str(clip(tmp_path)), "-o", str(tmp_path / "out")]) == 9
    assert "int8 is not faster here" in capfd.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_beyond_the_bound_nothing_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    export(model, tmp_path / "out", "onnx", "fp32")
    before = (tmp_path / "out" / "manifest.json").read_text("utf-8")
    monkeypatch.setitem(verify.BOUNDS, "f16", 1e-9)
    command = ["export", str(model), "--to", "onnx", "--precision", "fp16", "--json"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 9
    said = capfd.readouterr()
    assert "alpha is off by" in said.err
    told = [json.loads(line) for line in said.out.splitlines()]
    assert [line["event"] for line in told] == ["stage", "stage", "error"]
    assert told[-1]["exit_code"] == 9
    assert (tmp_path / "out" / "manifest.json").read_text("utf-8") == before  # the older one stays
    assert not (tmp_path / "out.part").exists()


def test_what_cannot_be_exported(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(code: int, *arguments: object) -> str:
        assert main(["export", *map(str, arguments)]) == code
        said = capfd.readouterr().err
        assert said.count("\n") == 1 and "Traceback" not in said
        return said

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "no.mp4").write_text("no video")
    to = ("--to", "openvino", "-o")
    out = tmp_path / "out"
    assert "--frames" in fails(2, model, "--precision", "int8", *to, out)
    assert "files other than an export" in fails(2, model, *to, tmp_path / "full")
    assert "does not exist" in fails(7, tmp_path / "nothing", *to, out)
    assert "no.mp4" in fails(3, model, *to, out, "--frames", tmp_path / "no.mp4")
    export(model, tmp_path / "made", "onnx", "fp32")
    if not torch.cuda.is_available():
        assert "PyTorch finds none" in fails(9, model, "--to", "torch-tensorrt", "-o", out)
    assert "fp32 or fp16" in fails(
        2, model, "--to", "torch-tensorrt", "--precision", "int8", "-o", out
    )
    assert "is an export" in fails(2, tmp_path / "made", *to, out)
    assert not list(tmp_path.glob("out*"))


def test_an_openvino_export_is_whole_or_refused(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "out", "openvino", "fp16")
    weights = tmp_path / "out" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.bin: its SHA-256"):
        load_bundle(tmp_path / "out")


# --- the graph ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folded(model: Path) -> onnx.ModelProto:
    return simplify(onnx.load(model / "model.onnx"))


def test_folding_leaves_no_batch_norm_and_no_cast(folded: onnx.ModelProto) -> None:
    kinds = {node.op_type for node in folded.graph.node}
    assert "Conv" in kinds
    assert not kinds & {"BatchNormalization", "Cast", "CastLike", "Constant"}


def test_half_keeps_fp32_where_numbers_need_it(folded: onnx.ModelProto) -> None:
    half = to_half(folded)
    onnx.checker.check_model(half, full_check=True)
    typed = onnx.shape_inference.infer_shapes(half).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.output)}
    islands = set(fp32_islands(folded))
    seen = set()
    for node in half.graph.node:
        type = types[node.output[0]]
        if node.op_type in {"Conv", "Relu"}:
            assert type == TensorProto.FLOAT16
        if node.name in islands and type in {TensorProto.FLOAT, TensorProto.FLOAT16}:
            assert type == TensorProto.FLOAT
            seen.add(node.op_type)
    assert {"Sub", "Sigmoid", "ReduceMean"} <= seen
    for value in (*half.graph.input, *half.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


def test_a_batch_norm_without_a_convolution_is_lowered() -> None:
    def weight(name: str, values: list[float]) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.array(values, np.float32), name)

    shape = [1, 2, 3, 3]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
        "norm",
        [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weight("s", [1, 2]), weight("b", [0.5, -1]), weight("m", [0, 3]), weight("v", [1e-9, 4])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    x = np.random.default_rng(0).random(shape, np.float32)
    expected, got = (
        onnx.reference.ReferenceEvaluator(m).run(None, {"x": x})[0]
        for m in (model, simplify(model))
    )
    assert all(node.op_type in {"Mul", "Add"} for node in simplify(model).graph.node)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


# --- the proof ------------------------------------------------------------------------------------


def test_comparison_finds_what_was_put_there(model: Path, tmp_path: Path) -> None:
    bundle = load_bundle(model)
    network = load_network(bundle)
    samples = load_samples([clip(tmp_path)], bundle, 2)
    reference = Reference(network, samples)
    answers = iter([case[2] for case in reference.cases])

    def off_by(*_: object) -> verify.Maps:
        alpha = next(answers) + np.float32(0.01)
        return verify.Maps(alpha, alpha, alpha, alpha)

    accuracy = reference.compare(off_by)
    assert accuracy.mean == pytest.approx(0.01, rel=1e-3)
    assert accuracy.max == pytest.approx(0.01, rel=1e-3)
    assert accuracy.mad_change is None
    with pytest.raises(ExportError, match=r"off by 0\.01"):
        check(accuracy, "int8")


def test_transition_band_is_where_alpha_is_soft() -> None:
    alpha = np.zeros((9, 9), np.float32)
    alpha[:, 5:] = 1
    assert not transition_band(alpha).any()
    alpha[4, 4] = 0.5
    band = transition_band(alpha)
    assert band[2:7, 2:7].all()
    assert band.sum() == 25


def test_true_alphas_of_a_shard(model: Path, shared_clips: Path) -> None:
    shard = shared_clips.parent / "data" / "val-00.tar"
    bundle = load_bundle(model)
    samples = load_samples([shard], bundle, 2)
    assert len(samples) == 2
    for image, truth in samples:
        assert truth is not None
        assert truth.shape == image.shape[2:]
        assert 0 <= truth.min() < 0.1 and 0.9 < truth.max() <= 1
    accuracy = Reference(load_network(bundle), samples).compare(
        create_backend("openvino", bundle).infer
    )
    assert accuracy.mad_change is not None and abs(accuracy.mad_change) < 0.01
