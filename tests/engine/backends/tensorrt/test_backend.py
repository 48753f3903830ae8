"""What of the TensorRT backend can be shown without a GPU.

The runner runs against a library that has exactly the members that were recorded from the wheels of
TensorRT 10, TensorRT 11 and TensorRT-RTX, see ``tests.engines``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.engines import RTX, SURFACES, Context, Engine, Floats, Mode, Recorded, Shape, Strategy

from fusematte.engine.backends.tensorrt import backend as tensorrt_backend
from fusematte.engine.backends.tensorrt import library as tensorrt_library
from fusematte.engine.backends.tensorrt.backend import (
    EngineNetwork,
    EngineRunner,
    TensorRtBackend,
    check_compatible,
)
from fusematte.engine.cuda import probe
from fusematte.engine.errors import BackendError, ExportError, ModelError
from fusematte.engine.models import load_bundle


class Driver:
    """Device memory that is host memory, and graphs that are calls."""

    stream = SimpleNamespace(handle=7)

    def __init__(self) -> None:
        self.memory: dict[int, Floats] = {}
        self.captured: list[Any] = []

    def allocate(self, size: int) -> int:
        address = 4096 * (len(self.memory) + 1)
        self.memory[address] = np.full(size // 4, np.nan, np.float32)
        return address

    def pinned(self, shape: tuple[int, ...]) -> Floats:
        return np.full(shape, np.nan, np.float32)

    def upload(self, source: Floats, target: int) -> None:
        self.memory[target][:] = source.ravel()

    def download(self, source: int, target: Floats) -> None:
        target[:] = self.memory[source].reshape(target.shape)

    def wait(self) -> None:
        pass

    def capture(self, work: Callable[[], None]) -> Any:  # noqa: ANN401
        self.captured.append(SimpleNamespace(launch=work, close=lambda: None))
        return self.captured[-1]


def make(surface: dict[str, Any], jit_cache: bytes | None = None) -> tuple[Any, Engine, Driver]:
    library = SimpleNamespace(TensorIOMode=Mode, ExecutionContextAllocationStrategy=Strategy)
    if "CudaGraphStrategy" in surface["module"]:
        library.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    driver = Driver()

    def view(address: int, shape: Shape) -> Floats:
        return driver.memory[address][: math.prod(shape)].reshape(shape)

    def schedule(stream: int, work: Callable[[], None]) -> None:
        assert stream == driver.stream.handle
        work()

    engine = Engine(surface, view, schedule=schedule)
    runner = EngineRunner(library, Recorded(surface, "ICudaEngine", engine), driver, jit_cache)
    return runner, engine, driver


def feeds(height: int, width: int) -> dict[str, Floats]:
    rng = np.random.default_rng(height)
    return {
        "image": rng.random((1, 3, height, width), np.float32),
        "previous": rng.random((1, 1, height, width), np.float32),
    }


@pytest.mark.parametrize("version", SURFACES)
def test_runner_on_every_recorded_surface(version: str) -> None:
    runner, engine, driver = make(SURFACES[version])
    for size in ((64, 96), (32, 32), (64, 96)):
        given = feeds(*size)
        results = runner.run(given)
        assert set(results) == {"alpha", "foreground", "background", "beta"}
        image, previous = given["image"].mean(), given["previous"].mean()
        np.testing.assert_allclose(results["alpha"], image, rtol=1e-6)
        np.testing.assert_allclose(results["beta"], image + 3 * previous, rtol=1e-5)
        assert results["alpha"].shape == (1, 1, *size)
    assert len(engine.contexts) == 2  # one a size
    own_graphs = "tensorrt_rtx" not in version
    assert len(driver.captured) == (2 if own_graphs else 0)
    assert (runner.jit_cache() is None) == own_graphs
    runner.close()
    runner.close()


@pytest.mark.parametrize("version", SURFACES)
def test_an_engine_over_memory_of_others(version: str) -> None:
    """As the frame path uses it: two videos of one engine, each with a context of its own."""
    runner, engine, driver = make(SURFACES[version])
    network = EngineNetwork(runner)
    assert not network.takes_guide
    assert network.captures == ("tensorrt_rtx" not in version)
    videos = []
    for value in (0.25, 0.5):
        addresses = {
            name: driver.allocate(4 * 64 * 96 * 3) for name in (*Engine.inputs, *Engine.outputs)
        }
        driver.memory[addresses["image"]][:] = value
        driver.memory[addresses["previous"]][:] = 0
        videos.append((network.bind((64, 96), addresses, driver), addresses, value))
    for run, addresses, value in videos:
        run()
        np.testing.assert_allclose(driver.memory[addresses["alpha"]][: 64 * 96], value)
    assert len(engine.contexts) == 2
    with pytest.raises(BackendError, match="export it again with --sizes"):
        network.bind((16, 32), addresses, driver)


def test_rtx_captures_graphs_itself_and_keeps_its_kernels() -> None:
    surface = SURFACES[RTX]
    runner, engine, _ = make(surface, b"kernels")
    assert engine.config.cuda_graph_strategy == "whole"
    assert runner.jit_cache() == b"kernels"


def test_foreign_compiled_kernels_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    surface = SURFACES[RTX]
    make(surface, b"another machine's")
    assert "compiled again" in caplog.text


@pytest.mark.parametrize("size", [(128, 96), (64, 160), (16, 32)])
def test_a_size_outside_the_profile(size: tuple[int, int]) -> None:
    runner, _, driver = make(next(iter(SURFACES.values())))
    with pytest.raises(BackendError, match=r"32x32 to 128x96; export it again with --sizes"):
        runner.run(feeds(*size))
    assert not driver.memory


def test_no_memory_for_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "create_execution_context", lambda *_: None)
    runner, _, _ = make(next(iter(SURFACES.values())))
    with pytest.raises(
        BackendError, match="too little memory for the engine; close other programs"
    ):
        runner.run(feeds(64, 96))


def test_a_run_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "execute_async_v3", lambda *_: False)
    runner, _, _ = make(next(iter(SURFACES.values())))
    with pytest.raises(BackendError, match="TensorRT failed"):
        runner.run(feeds(64, 96))


def test_builder_calls_exist_in_every_version() -> None:
    """The exporter's builder is run for real with TensorRT-RTX; here its calls, by name."""
    used = {
        "Builder": ("create_network", "create_builder_config", "create_optimization_profile",
                    "build_serialized_network"),
        "IBuilderConfig": ("profiling_verbosity", "add_optimization_profile"),
        "INetworkDefinition": ("num_inputs", "get_input"),
        "OnnxParser": ("parse", "num_errors", "get_error"),
        "IOptimizationProfile": ("set_shape",),
        "IPluginRegistry": ("get_creator", "register_creator"),
        "Runtime": ("deserialize_cuda_engine",),
    }  # fmt: skip
    for version, surface in SURFACES.items():
        for kind, members in used.items():
            missing = set(members) - set(surface["classes"][kind])
            assert not missing, f"{version}: {kind}"


def test_another_versions_engine_is_refused(tmp_path: Path) -> None:
    bundle = load_bundle()
    export = {"target": "tensorrt", "engine": {"version": "10.3.0"}}
    made = replace(bundle, file=tmp_path / "m.engine", manifest={"export": export})
    check_compatible(made, "tensorrt", "10.3.1")
    with pytest.raises(ModelError, match=r"built by tensorrt 10\.3\.0, but 11\.4\.0 .* again"):
        check_compatible(made, "tensorrt", "11.4.0")


# --- why it cannot run ----------------------------------------------------------------------------


def test_each_missing_piece_has_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "open_libcuda", lambda: None)
    assert "get one from nvidia.com/drivers" in str(TensorRtBackend.unavailable())

    monkeypatch.setattr(probe, "open_libcuda", lambda: Libcuda(gpus=0))
    assert "nvidia-smi" in str(TensorRtBackend.unavailable())
    monkeypatch.setattr(probe, "open_libcuda", lambda: Libcuda(version=12040))
    assert "supports CUDA 12.4, but the installed packages need 13.0: update it" in str(
        TensorRtBackend.unavailable()
    )
    monkeypatch.setattr(probe, "open_libcuda", Libcuda)
    monkeypatch.setattr(probe, "find_spec", lambda _: None)
    assert "pip install 'fusematte[tensorrt]'" in str(TensorRtBackend.unavailable())
    monkeypatch.setattr(probe, "find_spec", lambda name: name)
    monkeypatch.setattr(tensorrt_library, "installed", list)
    assert "pip install tensorrt" in str(TensorRtBackend.unavailable())
    monkeypatch.setattr(tensorrt_library, "installed", lambda: ["tensorrt-rtx"])
    monkeypatch.setattr(tensorrt_library, "load_library", lambda name: name)
    assert TensorRtBackend.unavailable() is None


class Libcuda:
    """The driver's library, as far as it is asked before pycuda is imported."""

    def __init__(self, gpus: int = 1, version: int = 13000) -> None:
        self.gpus, self.version = gpus, version

    def cuInit(self, flags: int) -> int:
        return flags if self.gpus else 100

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: ANN401
        count._obj.value = self.gpus
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: ANN401
        version._obj.value = self.version
        return 0


def test_a_library_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_of_old.py").write_text("raise ImportError('libnvinfer.so.10: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(tensorrt_library.MODULES, "tensorrt", ("tensorrt_of_old",))
    with pytest.raises(BackendError, match=r"libnvinfer\.so\.10: not found; reinstall it .*pip"):
        tensorrt_library.load_library("tensorrt")
    (tmp_path / "rtx_of_today.py").write_text("")
    rtx = "rtx_of_today", "rtx_of_tomorrow"
    monkeypatch.setitem(tensorrt_library.MODULES, "tensorrt-rtx", rtx)
    assert tensorrt_library.first_loadable() == "tensorrt-rtx"
    monkeypatch.setitem(tensorrt_library.MODULES, "tensorrt-rtx", rtx[1:])
    with pytest.raises(BackendError, match=r"libnvinfer\.so\.10: not found"):
        tensorrt_library.first_loadable()


# --- a model on a device --------------------------------------------------------------------------


class Card(Driver):
    """A GPU as the backend sees it."""

    name, compute_capability, version = "NVIDIA T4", "7.5", "13000"

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        pass


def on_a_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loaded: object) -> list[bytes]:
    """Makes the backend find a GPU and a TensorRT that answers ``loaded`` to every engine."""
    version = next(iter(SURFACES))
    plans: list[bytes] = []

    def deserialize(plan: bytes) -> object:
        plans.append(plan)
        return loaded

    library = SimpleNamespace(
        __version__="10.3.0",
        TensorIOMode=Mode,
        ExecutionContextAllocationStrategy=Strategy,
        Runtime=lambda _: Recorded(
            SURFACES[version], "Runtime", SimpleNamespace(deserialize_cuda_engine=deserialize)
        ),
    )
    logger = SimpleNamespace(errors=lambda: "Target GPU SM 90 is not supported")
    monkeypatch.setattr(tensorrt_backend, "CudaDriver", Card)
    monkeypatch.setattr(tensorrt_backend, "load_library", lambda _: library)
    monkeypatch.setattr(tensorrt_backend, "make_logger", lambda _: logger)
    monkeypatch.setattr(tensorrt_backend, "register_plugin", lambda _: None)
    monkeypatch.setattr(tensorrt_library, "installed", lambda: ["tensorrt"])
    monkeypatch.setattr(tensorrt_library, "load_library", lambda _: library)
    monkeypatch.setenv("FUSEMATTE_CACHE", str(tmp_path / "cache"))
    return plans


def test_an_engine_of_another_gpu_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_a_card(monkeypatch, tmp_path, None)
    (tmp_path / "m.engine").write_bytes(b"plan")
    export = {"target": "tensorrt", "precision": "fp16", "engine": {"version": "10.3.0"}}
    manifest = {"export": export, "sha256": "0" * 64}
    made = replace(load_bundle(), file=tmp_path / "m.engine", manifest=manifest)
    with pytest.raises(ModelError, match=r"m\.engine: .*SM 90 is not.*export it again on this"):
        TensorRtBackend(made)


def test_an_engine_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built: list[str] = []
    build_engine = pytest.importorskip("fusematte.export.build_engine")

    def build(_: object, flavour: str) -> bytes:
        built.append(flavour)
        return b"plan"

    monkeypatch.setattr(build_engine, "build_for_bundle", build)
    engine = Engine(SURFACES[next(iter(SURFACES))], view=lambda *_: np.empty(0, np.float32))
    plans = on_a_card(monkeypatch, tmp_path, engine)
    for _ in range(2):
        made = TensorRtBackend(load_bundle())
        made.close()
        made.close()
    assert (built, plans) == (["tensorrt"], [b"plan"] * 2)


def test_a_build_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build_engine = pytest.importorskip("fusematte.export.build_engine")

    def build(*_: object) -> bytes:
        raise ExportError("tensorrt cannot build the engine: out of memory")

    monkeypatch.setattr(build_engine, "build_for_bundle", build)
    on_a_card(monkeypatch, tmp_path, None)
    with pytest.raises(BackendError, match=r"NVIDIA T4.*out of memory"):
        TensorRtBackend(load_bundle())
    assert not (tmp_path / "cache").exists()
