"""Every backend against the contract, and the choice among backends."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openvino
import psutil
import pytest
from numpy.typing import NDArray

from fusematte.engine import backends
from fusematte.engine.backends import BACKENDS, Backend, Maps, create_backend, openvino_backend
from fusematte.engine.backends.cache import Cache
from fusematte.engine.backends.openvino_backend import CompiledKey
from fusematte.engine.backends.sharing import Lease
from fusematte.engine.errors import BackendError, ModelError
from fusematte.engine.models import Bundle, load_bundle

Input = NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.gpu] * (n == "tensorrt")) for n in BACKENDS],
)
def backend(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Backend]:
    reason = BACKENDS[request.param].unavailable()
    if reason:
        pytest.skip(reason)
    made = create_backend(request.param, bundle)
    yield made
    made.close()


def inputs(height: int, width: int) -> tuple[Input, Input]:
    rng = np.random.default_rng(height * width)
    # A patchwork: pure noise looks like nothing to any network.
    patches = rng.random((1, 3, height // 16, width // 16), np.float32)
    image = patches.repeat(16, 2).repeat(16, 3)
    return image, np.zeros((1, 1, height, width), np.float32)


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (160, 96)])
def test_any_size_in_steps(backend: Backend, bundle: Bundle, size: tuple[int, int]) -> None:
    assert all(side % bundle.multiple == 0 for side in size)
    maps = backend.infer(*inputs(*size))
    for part in maps:
        assert (part.shape, part.dtype) == (size, np.float32)
        assert part.min() >= 0
        assert part.max() <= 1


def test_results_are_the_callers_to_keep(backend: Backend) -> None:
    image, none = inputs(96, 160)
    first = backend.infer(image, none)
    kept = [part.copy() for part in first]
    second = backend.infer(1 - image, none)
    assert not np.array_equal(first.alpha, second.alpha)
    for part, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(part, copy)
        part[:] = 2  # may be written to
    np.testing.assert_array_equal(backend.infer(image, none).alpha, kept[0])


def test_maps_stay_within_0_and_1() -> None:
    """Whatever the last bit of a runtime's arithmetic does."""
    given = np.array([[-1.2e-7, 0.5], [1 + 1.2e-7, np.nan]], np.float32)
    maps = Backend.within_range([given] * 4)
    np.testing.assert_array_equal(maps.alpha, np.array([[0, 0.5], [1, np.nan]], np.float32))
    assert maps.alpha.dtype == np.float32
    assert not any(np.shares_memory(part, given) for part in maps)


def test_inputs_stay_as_they_are(backend: Backend) -> None:
    image, none = inputs(96, 160)
    copies = image.copy(), none.copy()
    backend.infer(image, none)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(none, copies[1])


def test_same_input_same_output(backend: Backend) -> None:
    first = backend.infer(*inputs(96, 160))
    backend.infer(*inputs(32, 32))  # another size in between leaves no trace
    for a, b in zip(first, backend.infer(*inputs(96, 160)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_size_is_compiled_while_another_runs(backend: Backend) -> None:
    image, none = inputs(64, 96)
    others = inputs(96, 64)
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(backend.compile, image.shape)
        before = backend.infer(*others)
        compiled.result()
    after = backend.infer(image, none)
    assert after.alpha.shape == (64, 96)
    np.testing.assert_array_equal(backend.infer(*others).alpha, before.alpha)
    backend.compile(image.shape)  # it is there
    np.testing.assert_array_equal(backend.infer(image, none).alpha, after.alpha)


def test_previous_alpha_has_an_influence(backend: Backend, bundle: Bundle) -> None:
    image, previous = inputs(96, 160)
    without = backend.infer(image, previous).alpha
    previous[..., 40:120] = 1
    difference = np.abs(backend.infer(image, previous).alpha - without).max()
    assert (difference > 1e-3) == bundle.takes_previous


def test_says_what_it_runs_on(backend: Backend) -> None:
    assert backend.device
    assert backend.precision in {"f32", "bf16", "f16", "int8"}


def test_backends_agree(backend: Backend, bundle: Bundle) -> None:
    """Every backend gives what OpenVINO computes, as far as its precision goes."""
    image, none = inputs(96, 160)
    expected = create_backend("openvino", bundle.without_int8()).infer(image, none)
    mean, largest = (0.02, 1.0) if backend.precision == "int8" else (0.005, 0.1)
    result = backend.infer(image, none)
    assert np.abs(result.alpha - expected.alpha).mean() < 0.005
    for ours, theirs in zip(result, expected, strict=True):
        assert np.abs(ours - theirs).mean() < mean
        assert np.abs(ours - theirs).max() < largest


def test_openvino_lets_go_of_the_size_not_used_for_longest(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    compiled: list[object] = []
    kind = openvino_backend.OpenVinoBackend
    load = kind._compiled

    def count(*arguments: Any) -> Any:  # noqa: ANN401
        compiled.append(arguments)
        return load(*arguments)

    monkeypatch.setattr(kind, "_compiled", count)
    monkeypatch.setattr(openvino_backend, "COMPILED", 2)
    made = create_backend("openvino:cpu:f32", bundle)
    made.compile((1, 3, 32, 32))  # what is compiled ahead is not compiled again
    first = made.infer(*inputs(32, 32)).alpha
    made.infer(*inputs(32, 64))
    full = psutil.Process().num_threads()
    made.infer(*inputs(32, 32))
    made.infer(*inputs(32, 96))  # in the place of 64
    made.infer(*inputs(32, 32))
    assert len(compiled) == 3
    for width in (128, 160):
        made.infer(*inputs(32, width))
    assert psutil.Process().num_threads() <= full
    np.testing.assert_array_equal(made.infer(*inputs(32, 32)).alpha, first)
    assert len(compiled) == 6
    made.close()


@pytest.mark.slow
def test_pictures_of_many_shapes_take_bounded_memory() -> None:
    """As a server gets them: each shape is a network of its own."""
    widths = {96: 384, 128: 288, 160: 224, 192: 192, 224: 160, 256: 128, 288: 128, 384: 96}
    shapes = [*widths.items(), (96, 352), (128, 256), (160, 256), (256, 160)]
    made, used = create_backend("openvino:cpu:f32", load_bundle("edge")), []
    for shape in shapes:
        made.infer(*inputs(*shape))
        used.append(psutil.Process().memory_info().rss)
    made.close()
    assert used[-1] - used[openvino_backend.COMPILED - 1] < 100 << 20


@pytest.mark.parametrize("name", BACKENDS)
def test_a_file_of_another_format_is_refused(name: str, bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"it reads .*\.onnx.*, not model\.xyz"):
        create_backend(name, replace(bundle, file=bundle.folder / "model.xyz"))


@pytest.mark.parametrize("name", BACKENDS)
def test_closes_twice(name: str, bundle: Bundle) -> None:
    reason = BACKENDS[name].unavailable()
    if reason:
        pytest.skip(reason)
    made = create_backend(name, bundle, threads=1)
    made.infer(*inputs(32, 32))
    made.close()
    made.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_file_that_is_no_network_is_a_model_error(
    name: str, bundle: Bundle, tmp_path: Path
) -> None:
    reason = BACKENDS[name].unavailable()
    if reason:
        pytest.skip(reason)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"not a network")
    with pytest.raises(ModelError, match=r"model\.onnx"):
        create_backend(name, replace(bundle.without_int8(), folder=tmp_path, file=file))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_network_without_the_promised_inputs_is_a_model_error(name: str, bundle: Bundle) -> None:
    reason = BACKENDS[name].unavailable()
    if reason:
        pytest.skip(reason)
    with pytest.raises(ModelError, match="previous"):
        create_backend(name, replace(bundle, takes_previous=False))


# --- the choice -----------------------------------------------------------------------------------


class Constant(Backend):
    """A backend without a network: alpha is the mean of the image."""

    name: ClassVar[str] = "constant"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    def _open(self, device: str | None, precision: str | None, threads: int | None) -> None:  # noqa: ARG002
        self.threads = threads
        self.device, self.precision = "any", "f32"

    def infer(self, image: Input, previous: Input) -> Maps:
        alpha = np.full(previous.shape[2:], image.mean(), np.float32)
        return Maps(alpha, alpha, 1 - alpha, np.ones_like(alpha))

    def close(self) -> None:
        pass


class Broken(Constant):
    """One that cannot run here."""

    name: ClassVar[str] = "broken"

    @classmethod
    def unavailable(cls) -> str | None:
        return "it lacks a flux capacitor: buy one"


class AlsoBroken(Broken):
    """Another."""

    name: ClassVar[str] = "also-broken"

    @classmethod
    def unavailable(cls) -> str | None:
        return "the moon is new: wait"


def register(monkeypatch: pytest.MonkeyPatch, *kinds: type[Backend]) -> None:
    monkeypatch.setattr(backends, "BACKENDS", {kind.name: kind for kind in kinds})


def test_registry_is_keyed_by_the_backends_own_names() -> None:
    assert BACKENDS
    assert all(name == kind.name for name, kind in BACKENDS.items())
    assert "auto" not in BACKENDS


def test_unknown_backend_lists_the_real_ones(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="no backend 'vulkan'") as caught:
        create_backend("vulkan", bundle)
    assert all(name in str(caught.value) for name in ("auto", *BACKENDS))
    assert "\n" not in str(caught.value)


def test_auto_takes_the_first_that_runs(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    register(monkeypatch, Broken, Constant, BACKENDS["openvino"])
    made = create_backend("auto", bundle, threads=3)
    assert isinstance(made, Constant)
    assert (made.bundle, made.threads) == (bundle, 3)


def test_auto_goes_on_from_one_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    class Surprised(Constant):
        name: ClassVar[str] = "surprised"

        def __init__(self, *_: object, **__: object) -> None:
            raise BackendError("the card is out of memory: close other programs")

    register(monkeypatch, Surprised, Constant)
    assert isinstance(create_backend("auto", bundle), Constant)
    (told,) = caplog.records
    assert told.levelname == "WARNING"
    assert "backend surprised is not used: the card is out of memory" in told.message
    with pytest.raises(BackendError, match="out of memory"):
        create_backend("surprised", bundle)


def test_auto_gives_every_reason_once(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    register(monkeypatch, Broken, AlsoBroken)
    with pytest.raises(BackendError) as caught:
        create_backend("auto", bundle)
    assert "broken: it lacks a flux capacitor: buy one" in str(caught.value)
    assert "also-broken: the moon is new: wait" in str(caught.value)
    assert not caplog.records


def test_named_backend_is_not_replaced(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    register(monkeypatch, Constant, Broken)
    with pytest.raises(BackendError, match="broken cannot run here: it lacks a flux capacitor"):
        create_backend("broken", bundle)


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("openvino:tpu", "is not NAME"),
        ("openvino:int8:f32", "is not NAME"),
        ("auto:f64", "f32, bf16, f16, int8"),
        ("tensorrt:npu", "it has no device npu, only gpu"),
        ("auto:npu", "openvino finds no NPU here"),
        ("openvino:gpu", "openvino finds no GPU here"),
        ("onnxruntime:directml", "pip install onnxruntime-directml"),
        ("onnxruntime:coreml", "has no CoreML, only .*CPU"),
        ("torch:cpu:int8", "torch runs edge in f32 on .*, not in int8"),
    ],
)
def test_what_cannot_be_is_one_clear_line(wish: str, told: str, bundle: Bundle) -> None:
    if wish.startswith("torch") and BACKENDS["torch"].unavailable():
        pytest.skip("no torch here")
    if wish.endswith(("npu", "gpu")) and len(openvino.Core().available_devices) > 1:
        pytest.skip("Intel's devices are here")
    with pytest.raises(BackendError, match=told) as caught:
        create_backend(wish, bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_model_without_int8_says_so(name: str, bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="model edge has no int8 network; leave out --precision"):
        create_backend(f"{name}:cpu:int8", bundle.without_int8())


def test_onnxruntime_is_loaded_without_its_telemetry(tmp_path: Path) -> None:
    """It would write an identifier into the folder of temporary files and send to its maker."""
    code = (
        "from fusematte.engine.backends import create_backend\n"
        "from fusematte.engine.backends.onnxruntime_backend import OnnxRuntimeBackend\n"
        "from fusematte.engine.models import load_bundle\n"
        "OnnxRuntimeBackend.candidates(load_bundle(), thorough=True)\n"
        "create_backend('onnxruntime:cpu', load_bundle()).close()\n"
    )
    if reason := BACKENDS["onnxruntime"].unavailable():
        pytest.skip(reason)
    unset = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI")
    places = ("TMPDIR", "HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {place: str(tmp_path) for place in places}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_f16_is_never_emulated(bundle: Bundle) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("others compute in it")
    assert "f16" not in openvino_backend.precisions(openvino.Core(), "CPU", bundle)
    with pytest.raises(BackendError, match="has no f16"):
        create_backend("openvino:cpu:f16", bundle)


def test_what_was_compiled_before_gives_the_same_result(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("FUSEMATTE_CACHE", str(tmp_path))
    results = []
    for damage in (None, None, b"OpenVINO took this for its own"):
        if damage is not None:
            (path,) = tmp_path.glob("compiled-*")
            key = json.loads(path.read_bytes().split(b"\n", 2)[1])
            del key["sha256"]
            Cache().store(CompiledKey(**key | {"shape": tuple(key["shape"])}), damage)
        with monkeypatch.context() as patched:
            if len(results) == 1:  # neither read nor compiled
                patched.setattr(openvino_backend.OpenVinoBackend, "_model", None)
            made = create_backend("openvino:cpu:f32", bundle, threads=1)
            results.append(made.infer(*inputs(32, 64)))
            made.close()
    for again in results[1:]:
        for ours, theirs in zip(results[0], again, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert "refuses a network it compiled earlier" in caplog.text


def test_a_device_that_vanishes_is_replaced(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    class Vanishing(Constant):
        name: ClassVar[str] = "vanishing"

        def infer(self, *_: Input) -> Maps:
            raise BackendError("the device is gone")

    register(monkeypatch, Vanishing, Constant)
    image, none = inputs(32, 32)
    lease = Lease("auto", bundle)
    assert isinstance(lease.backend, Vanishing)
    np.testing.assert_allclose(lease.infer(image, none).alpha, image.mean())
    assert type(lease.backend) is Constant
    lease.close()
    assert "the device is gone; continuing with constant" in caplog.text
    lease = Lease("vanishing", bundle)
    with pytest.raises(BackendError, match="the device is gone"):
        lease.infer(image, none)
    lease.close()


def test_openvino_comes_without_its_converter_until_asked() -> None:
    script = (
        "import sys\n"
        "from fusematte.engine.backends.openvino_backend import load_openvino\n"
        "openvino = load_openvino()\n"
        "assert load_openvino() is openvino\n"
        "assert not any(name.startswith('openvino.tools') for name in sys.modules)\n"
        "assert openvino.convert_model.__name__ == 'convert_model'\n"
        "assert not hasattr(openvino, 'convert_models')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_engine_does_not_import_torch() -> None:
    script = (
        "import sys, fusematte.cli, fusematte.engine.backends as b\n"
        "[kind.unavailable() for kind in b.BACKENDS.values()]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
