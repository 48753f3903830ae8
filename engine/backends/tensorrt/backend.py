"""Inference with TensorRT or TensorRT-RTX on an NVIDIA GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.backends.cache import Cache, CacheKey
from fusematte.engine.backends.tensorrt.library import (
    first_loadable,
    load_library,
    make_logger,
)
from fusematte.engine.backends.tensorrt.plugin import register_plugin
from fusematte.engine.cuda.driver import CudaDriver, serve_stream
from fusematte.engine.cuda.probe import why_no_cuda
from fusematte.engine.errors import BackendError, ExportError, ModelError
from fusematte.engine.frame import Map
from fusematte.engine.models import Bundle

log = logging.getLogger(__name__)

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""BT.709, for engines that have the guided filter within."""


@dataclass(frozen=True, kw_only=True)
class EngineKey(CacheKey):
    """Everything that an engine depends on."""

    flavour: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    model_sha256: str
    precision: str
    kind: str = "engine"


class Driver(Protocol):
    """What the runner needs of a GPU; see ``CudaDriver``."""

    stream: Any

    def allocate(self, size: int) -> Any: ...  # noqa: ANN401
    def pinned(self, shape: tuple[int, ...]) -> NDArray[np.float32]: ...
    def upload(self, source: NDArray[Any], target: int) -> None: ...
    def download(self, source: int, target: NDArray[Any]) -> None: ...
    def wait(self) -> None: ...
    def capture(self, work: Any) -> Any: ...  # noqa: ANN401


class SizedContext(NamedTuple):
    """An execution context for one input size, and the device memory that it computes in."""

    context: Any
    memory: Any


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What belongs to one input size: a context, its buffers and, where possible, its graph."""

    context: SizedContext
    device: dict[str, Any]
    host: dict[str, NDArray[np.float32]]
    graph: Any


class EngineRunner:
    """Runs a deserialised engine of TensorRT 10, TensorRT 11 or TensorRT-RTX.

    For each size one execution context, with buffers at fixed addresses, captured as a CUDA graph:
    by TensorRT-RTX itself, which knows best, or from the stream.

    Raises:
        BackendError: a size that the engine was not built for, or a run that fails.
    """

    def __init__(
        self,
        library: Any,  # noqa: ANN401
        engine: Any,  # noqa: ANN401
        driver: Driver,
        jit_cache: bytes | None = None,
    ) -> None:
        self._library, self._engine, self._driver = library, engine, driver
        modes = library.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.inputs = [n for n in names if engine.get_tensor_mode(n) == modes.INPUT]
        self.outputs = [n for n in names if n not in self.inputs]
        self._shapes: dict[tuple[int, int], _Shape] = {}
        self._config, self._jit_cache = self._runtime_config(jit_cache)

    def _runtime_config(self, jit_cache: bytes | None) -> tuple[Any, Any]:
        """How contexts are made: in memory of ours, which is sized for one input and not for the
        engine's largest.  TensorRT-RTX compiles kernels when it first runs: they are kept, and
        graphs are its own."""
        ours = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self._library, "CudaGraphStrategy"):
            return ours, None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(ours)
        config.cuda_graph_strategy = self._library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = config.create_runtime_cache()
        if jit_cache is not None and not cache.deserialize(jit_cache):
            log.warning("the cache of compiled kernels is foreign: they are compiled anew")
        config.set_runtime_cache(cache)
        return config, cache

    def jit_cache(self) -> bytes | None:
        """The kernels that TensorRT-RTX compiled here, to start faster the next time."""
        return None if self._jit_cache is None else bytes(self._jit_cache.serialize())

    def size_range(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The smallest and the largest (height, width)."""
        least, _, most = self._engine.get_tensor_profile_shape(self.inputs[0], 0)
        return (least[2], least[3]), (most[2], most[3])

    def run(self, feeds: dict[str, Map]) -> dict[str, NDArray[np.float32]]:
        """One frame; the results are the runner's buffers, overwritten by the next."""
        height, width = next(iter(feeds.values())).shape[2:]
        if (height, width) not in self._shapes:
            self._shapes[height, width] = self._prepare(height, width)
        shape = self._shapes[height, width]
        for name, value in feeds.items():
            shape.host[name][:] = value
            self._driver.upload(shape.host[name], int(shape.device[name]))
        if shape.graph is None:
            self._execute(shape.context)
        else:
            shape.graph.launch()
        for name in self.outputs:
            self._driver.download(int(shape.device[name]), shape.host[name])
        self._driver.wait()
        return {name: shape.host[name] for name in self.outputs}

    def device_work(
        self, size: tuple[int, int]
    ) -> tuple[Callable[[], None], Callable[[], None] | None]:
        """One frame of a (height, width) that has run, without copies: launched kernel by kernel,
        and as a graph where the runner holds one; for benchmarks."""
        shape = self._shapes[size]
        graph = None if shape.graph is None else shape.graph.launch
        return lambda: self._execute(shape.context), graph

    def _prepare(self, height: int, width: int) -> _Shape:
        names = *self.inputs, *self.outputs
        context = self.sized_context(height, width)
        shapes = {name: tuple(context.context.get_tensor_shape(name)) for name in names}
        host = {name: self._driver.pinned(shape) for name, shape in shapes.items()}
        device = {name: self._driver.allocate(array.nbytes) for name, array in host.items()}
        self.place(context, {name: int(memory) for name, memory in device.items()})
        self._execute(context)  # what is set up lazily must not be captured
        self._driver.wait()
        graph = None
        if self.captures:
            graph = self._driver.capture(lambda: self._execute(context))
        return _Shape(context=context, device=device, host=host, graph=graph)

    @property
    def captures(self) -> bool:
        """Whether its launches are captured by us, and not by TensorRT-RTX itself."""
        return self._jit_cache is None

    def sized_context(self, height: int, width: int) -> SizedContext:
        """An execution context for one size, whose tensors have no place yet."""
        least, most = self.size_range()
        if not (least[0] <= height <= most[0] and least[1] <= width <= most[1]):
            raise BackendError(
                f"{width}x{height} is not among the engine's sizes, {least[1]}x{least[0]} to "
                f"{most[1]}x{most[0]}: export it again with --sizes"
            )
        context = self._context()
        for name in self.inputs:
            channels = self._engine.get_tensor_shape(name)[1]
            if not context.set_input_shape(name, (1, channels, height, width)):
                raise BackendError(f"the engine refuses the size {width}x{height} for {name}")
        size = context.update_device_memory_size_for_shapes()
        memory = self._driver.allocate(size)
        context.set_device_memory(int(memory), size)
        return SizedContext(context, memory)

    def place(self, sized: SizedContext, addresses: Mapping[str, int]) -> None:
        """Gives every tensor of a context its place in device memory."""
        for name in (*self.inputs, *self.outputs):
            if not sized.context.set_tensor_address(name, addresses[name]):
                raise BackendError(f"the engine refuses memory for {name}")

    def _context(self) -> Any:  # noqa: ANN401
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise BackendError(
                "the GPU has no memory for the engine: close other programs or use a smaller size"
            )
        return context

    def _execute(self, sized: SizedContext) -> None:
        self.execute(sized, int(self._driver.stream.handle))

    def execute(self, sized: SizedContext, stream: int) -> None:
        """Puts one run of a context on a stream."""
        if not sized.context.execute_async_v3(stream):
            raise BackendError("TensorRT failed to run the engine; see its messages above")

    def close(self) -> None:
        """Frees contexts, buffers and graphs."""
        for shape in self._shapes.values():
            if shape.graph is not None:
                shape.graph.close()
        self._shapes.clear()


class EngineNetwork:
    """An engine bound to memory that others own; see ``stages.gpu_frame_path.Network``."""

    def __init__(self, runner: EngineRunner) -> None:
        self._runner = runner
        self.takes_guide = "guide" in runner.inputs
        self.captures = runner.captures

    def bind(
        self,
        size: tuple[int, int],
        addresses: Mapping[str, int],
        device: Any,  # noqa: ANN401
    ) -> Callable[[], None]:
        """A run of the engine with its tensors at ``addresses``, on the stream of ``device``."""
        context, stream = self._runner.sized_context(*size), int(device.stream.handle)
        self._runner.place(context, addresses)
        serve_stream(stream, device)
        return lambda: self._runner.execute(context, stream)


class TensorRtBackend(Backend):
    """The network as a TensorRT engine: an exported one, or one built here and kept.

    A model that is no export is built as an fp16 engine at its first use, by the exporter, which
    is imported then and nowhere else in the engine.
    """

    name: ClassVar[str] = "tensorrt"
    devices: ClassVar[tuple[str, ...]] = ("gpu",)
    reads: ClassVar[tuple[str, ...]] = (".engine", ".onnx")

    @classmethod
    def unavailable(cls) -> str | None:
        if reason := why_no_cuda():
            return reason
        try:
            first_loadable()
        except BackendError as error:
            return str(error)
        return None

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,  # noqa: ARG002
        precision: str | None = None,  # noqa: ARG002
        threads: int | None = None,  # noqa: ARG002
    ) -> None:
        self.bundle = bundle
        self._closed = False
        export = bundle.manifest.get("export", {})
        exported = bundle.file.suffix == ".engine"
        flavour = export["target"] if exported else first_loadable()
        self.precision = {"fp32": "f32", "fp16": "f16", "int8": "int8"}[
            export.get("precision", "fp16")
        ]
        library = load_library(flavour)
        if exported:
            check_compatible(bundle, flavour, library.__version__)
        self._driver = CudaDriver()
        self.device = f"{self._driver.name}, {flavour} {library.__version__}"
        self._key = EngineKey(
            flavour=flavour,
            version=library.__version__,
            gpu=self._driver.name,
            compute_capability=self._driver.compute_capability,
            driver=self._driver.version,
            model_sha256=bundle.manifest["sha256"],
            precision=self.precision,
        )
        self._cache = Cache()
        try:
            with self._driver.current():
                self._load(library, flavour, exported)
        except Exception:
            self._driver.close()
            raise
        guided = {"guide"} & set(self._runner.inputs)
        self.check_ports(set(self._runner.inputs) - guided, set(self._runner.outputs))

    def _load(self, library: Any, flavour: str, exported: bool) -> None:  # noqa: ANN401
        register_plugin(library)
        serve_stream(int(self._driver.stream.handle), self._driver)
        plan = self.bundle.file.read_bytes() if exported else self._build(flavour)
        self._logger = make_logger(library)
        self._runtime = library.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = f"{flavour} cannot load the engine: {self._logger.errors()}"
            if exported:
                raise ModelError(f"{self.bundle.file}: {reason}; export it again on this machine")
            raise BackendError(f"{self.device}: {reason}")
        jit_kernels = self._cache.load(self._jit_key())
        self._runner = EngineRunner(library, engine, self._driver, jit_kernels)

    def _jit_key(self) -> EngineKey:
        return EngineKey(**(vars(self._key) | {"kind": "kernels"}))

    def _build(self, flavour: str) -> bytes:
        plan = self._cache.load(self._key)
        if plan is None:
            if find_spec("onnxscript") is None:
                raise BackendError(
                    "building an engine needs the exporter: pip install 'fusematte[export]'; or "
                    "run a model exported with --to tensorrt"
                )
            from fusematte.export.build_engine import build_for_bundle

            log.info("building a TensorRT engine for %s; it is kept for the next time", self.device)
            try:
                plan = build_for_bundle(self.bundle, flavour)
            except ExportError as error:
                raise BackendError(f"{self.device}: {error}") from error
            self._cache.store(self._key, plan)
        return plan

    @property
    def network(self) -> EngineNetwork:
        """The engine for work that stays on the device; contexts of it may run side by side."""
        return EngineNetwork(self._runner)

    def infer(self, image: Map, previous: Map) -> Maps:
        feeds = self.feeds(image, previous)
        if "guide" in self._runner.inputs:
            feeds["guide"] = np.tensordot(LUMA, image, (0, 1))[:, None].reshape(previous.shape)
        with self._driver.current():
            results = self._runner.run(feeds)
        return self.within_range(results[name][0, 0] for name in Maps._fields)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self._driver.current():
            if (kernels := self._runner.jit_cache()) is not None:
                self._cache.store(self._jit_key(), kernels)
            self._runner.close()
        del self._runner, self._runtime
        self._driver.close()


def check_compatible(bundle: Bundle, flavour: str, version: str) -> None:
    """Whether an exported engine can be loaded by this TensorRT.

    Raises:
        ModelError: it was built by another version; full TensorRT loads its own engines only.
    """
    made = bundle.manifest["export"]["engine"]["version"]
    same = made.split(".")[:2] == version.split(".")[:2]
    if not same:
        raise ModelError(
            f"{bundle.file}: built by {flavour} {made}, but {version} is installed: export it again"
        )
