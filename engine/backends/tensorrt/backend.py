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
from fusematte.engine.frame import BT709, Map
from fusematte.engine.models import Bundle
from fusematte.engine.pixels.color import to_ycbcr

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineKey(CacheKey):
    """Cache key: everything that an engine depends on."""

    flavour: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    model_sha256: str
    precision: str
    kind: str = "engine"


class Driver(Protocol):
    """The GPU functions that the runner uses; see ``CudaDriver``."""

    stream: Any

    def allocate(self, size: int) -> Any: ...  # noqa: ANN401
    def pinned(self, shape: tuple[int, ...]) -> NDArray[np.float32]: ...
    def upload(self, source: NDArray[Any], target: int) -> None: ...
    def download(self, source: int, target: NDArray[Any]) -> None: ...
    def wait(self) -> None: ...
    def capture(self, work: Any) -> Any: ...  # noqa: ANN401


class SizedContext(NamedTuple):
    """An execution context for one input size, with its device memory."""

    context: Any
    memory: Any


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """The state for one input size: context, buffers and, where possible, CUDA graph."""

    context: SizedContext
    device: dict[str, Any]
    host: dict[str, NDArray[np.float32]]
    graph: Any


class EngineRunner:
    """Runs a deserialised engine of TensorRT 10, TensorRT 11 or TensorRT-RTX.

    Each input size has one execution context with buffers at fixed addresses, captured as a CUDA
    graph: by TensorRT-RTX itself, otherwise from the stream.

    Raises:
        BackendError: the engine was not built for the size, or a run failed.
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
        """The configuration of contexts and, for TensorRT-RTX, its kernel cache.

        Contexts use memory allocated here, sized for their input and not for the engine's largest.
        TensorRT-RTX compiles kernels at its first run, which are cached, and captures graphs
        itself."""
        ours = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self._library, "CudaGraphStrategy"):
            return ours, None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(ours)
        config.cuda_graph_strategy = self._library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = config.create_runtime_cache()
        if jit_cache is not None and not cache.deserialize(jit_cache):
            log.warning("TensorRT-RTX refuses its cached kernels; they are compiled again")
        config.set_runtime_cache(cache)
        return config, cache

    def jit_cache(self) -> bytes | None:
        """The kernels that TensorRT-RTX compiled, for a faster next start."""
        return None if self._jit_cache is None else bytes(self._jit_cache.serialize())

    def size_range(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The smallest and the largest input (height, width)."""
        least, _, most = self._engine.get_tensor_profile_shape(self.inputs[0], 0)
        return (least[2], least[3]), (most[2], most[3])

    def run(self, feeds: dict[str, Map]) -> dict[str, NDArray[np.float32]]:
        """Runs one frame; the results are the runner's buffers, overwritten by the next run."""
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
        """For benchmarks: functions that run one frame of a prepared (height, width) without
        copies, kernel by kernel and, if there is one, as a graph."""
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
        self._execute(context)  # lazy initialisation must not be captured
        self._driver.wait()
        graph = None
        if self.captures:
            graph = self._driver.capture(lambda: self._execute(context))
        return _Shape(context=context, device=device, host=host, graph=graph)

    @property
    def captures(self) -> bool:
        """Whether launches have to be captured here, not by TensorRT-RTX itself."""
        return self._jit_cache is None

    def sized_context(self, height: int, width: int) -> SizedContext:
        """An execution context for one size, without tensor addresses yet."""
        least, most = self.size_range()
        if not (least[0] <= height <= most[0] and least[1] <= width <= most[1]):
            raise BackendError(
                f"{width}x{height} is not one of the engine's sizes, {least[1]}x{least[0]} to "
                f"{most[1]}x{most[0]}",
                remedy="export it again with --sizes",
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
        """Sets the device address of every tensor of a context."""
        for name in (*self.inputs, *self.outputs):
            if not sized.context.set_tensor_address(name, addresses[name]):
                raise BackendError(f"the engine refuses memory for {name}")

    def _context(self) -> Any:  # noqa: ANN401
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise BackendError(
                "the GPU has too little memory for the engine",
                remedy="close other programs or use a smaller size",
            )
        return context

    def _execute(self, sized: SizedContext) -> None:
        self.execute(sized, int(self._driver.stream.handle))

    def execute(self, sized: SizedContext, stream: int) -> None:
        """Queues one run of a context on a stream."""
        if not sized.context.execute_async_v3(stream):
            raise BackendError("TensorRT failed to run the engine; see its messages above")

    def close(self) -> None:
        """Frees contexts, buffers and graphs."""
        for shape in self._shapes.values():
            if shape.graph is not None:
                shape.graph.close()
        self._shapes.clear()


class EngineNetwork:
    """An engine bound to memory of the caller; see ``stages.gpu_frame_path.Network``."""

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
        """A function that runs the engine on the stream of ``device``, tensors at ``addresses``."""
        context, stream = self._runner.sized_context(*size), int(device.stream.handle)
        self._runner.place(context, addresses)
        serve_stream(stream, device)
        return lambda: self._runner.execute(context, stream)


class TensorRtBackend(Backend):
    """Runs the network as a TensorRT engine: an exported one, or one built here and cached.

    At the first use of a model that is not an export, the exporter builds an fp16 engine; it is
    imported only then.
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

    def _open(self, device: str | None, precision: str | None, threads: int | None) -> None:  # noqa: ARG002
        self._closed = False
        export = self.bundle.manifest.get("export", {})
        exported = self.bundle.file.suffix == ".engine"
        flavour = export["target"] if exported else first_loadable()
        self.precision = {"fp32": "f32", "fp16": "f16", "int8": "int8"}[
            export.get("precision", "fp16")
        ]
        library = load_library(flavour)
        if exported:
            check_compatible(self.bundle, flavour, library.__version__)
        self._driver = CudaDriver()
        self.device = f"{self._driver.name}, {flavour} {library.__version__}"
        self._key = EngineKey(
            flavour=flavour,
            version=library.__version__,
            gpu=self._driver.name,
            compute_capability=self._driver.compute_capability,
            driver=self._driver.version,
            model_sha256=self.bundle.manifest["sha256"],
            precision=self.precision,
        )
        self._cache = Cache()
        try:
            with self._driver.current():
                self._load(library, flavour, exported)
        except Exception:
            self._driver.close()
            raise
        inputs, outputs = set(self._runner.inputs), set(self._runner.outputs)
        self.check_ports(inputs - {"guide"} if "guided" in outputs else inputs, outputs)

    def _load(self, library: Any, flavour: str, exported: bool) -> None:  # noqa: ANN401
        register_plugin(library)
        serve_stream(int(self._driver.stream.handle), self._driver)
        plan = self.bundle.file.read_bytes() if exported else self._build(flavour)
        self._logger = make_logger(library)
        self._runtime = library.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = f"{flavour} cannot load the engine ({self._logger.errors()})"
            if exported:
                raise ModelError.at(
                    self.bundle.file, reason, remedy="export it again on this machine"
                )
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
                    "building an engine needs the exporter",
                    remedy="pip install 'fusematte[export]', or "
                    "run a model exported with --to tensorrt",
                )
            from fusematte.export.build_engine import build_for_bundle

            log.info("building a TensorRT engine for %s; it is cached for later", self.device)
            try:
                plan = build_for_bundle(self.bundle, flavour)
            except ExportError as error:
                raise BackendError(f"{self.device}: {error}") from error
            self._cache.store(self._key, plan)
        return plan

    @property
    def network(self) -> EngineNetwork:
        """The engine for the GPU frame path; several contexts of it may run in parallel."""
        return EngineNetwork(self._runner)

    def infer(self, image: Map, previous: Map) -> Maps:
        feeds = self.feeds(image, previous)
        if "guide" in self._runner.inputs:
            luma, chroma = to_ycbcr(image[0], BT709)
            feeds["guide"] = np.concatenate([luma[None], chroma])[None]
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
    """Checks that this TensorRT can load an exported engine.

    Raises:
        ModelError: it was built by another version; TensorRT only loads engines of its own version.
    """
    made = bundle.manifest["export"]["engine"]["version"]
    same = made.split(".")[:2] == version.split(".")[:2]
    if not same:
        raise ModelError.at(
            bundle.file,
            f"built by {flavour} {made}, but {version} is installed",
            remedy="export it again",
        )
