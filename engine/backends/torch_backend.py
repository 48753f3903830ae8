"""Inference with PyTorch: fp16 and CUDA graphs on an NVIDIA GPU, f32 on the CPU."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar

from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.errors import BackendError, ModelError, first_line
from fusematte.engine.frame import Map

if TYPE_CHECKING:
    import torch


class TorchBackend(Backend):
    """Runs the network in PyTorch: its source code with the bundle's weights, or an exported
    program.

    On a GPU each input size is captured once as a CUDA graph over fixed buffers.  The network's
    source is in ``fusematte.training``, which the engine imports here only, and lazily.
    """

    name: ClassVar[str] = "torch"
    devices: ClassVar[tuple[str, ...]] = ("gpu", "cpu")
    reads: ClassVar[tuple[str, ...]] = (".onnx", ".pt2")

    @classmethod
    def unavailable(cls) -> str | None:
        for package in ("torch", "onnx"):
            if importlib.util.find_spec(package) is None:
                return f"the package {package} is not installed: pip install 'fusematte[export]'"
        return None

    def _open(self, device: str | None, precision: str | None, threads: int | None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self._on_gpu = device != "cpu" and torch.cuda.is_available()
        if device == "gpu" and not self._on_gpu:
            raise BackendError(
                "PyTorch finds no GPU",
                remedy="install a CUDA build of PyTorch and an NVIDIA driver",
            )
        self._device = torch.device("cuda" if self._on_gpu else "cpu")
        self.device = torch.cuda.get_device_name() if self._on_gpu else "CPU, PyTorch"
        self.device += f" {torch.__version__}"
        self.precision = "f16" if self._on_gpu and precision != "f32" else "f32"
        if self.bundle.file.suffix == ".pt2":
            halved = self.bundle.manifest.get("export", {}).get("precision") == "fp16"
            self.precision = "f16" if halved else "f32"
        self._network = self._program() if self.bundle.file.suffix == ".pt2" else self._code()
        self._graphs: dict[tuple[int, ...], _CudaGraph] = {}

    def _code(self) -> Any:  # noqa: ANN401
        """The network from its source code, with the bundle's weights."""
        import torch

        from fusematte.training.weights import load_network

        network = load_network(self.bundle)
        inputs = {"image", "previous"} if network.config.previous_alpha else {"image"}
        self.check_ports(inputs, set(Maps._fields))
        network.to(self._device)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _program(self) -> Any:  # noqa: ANN401
        """A torch.export program, which may contain TensorRT engines."""
        import torch

        export = self.bundle.manifest.get("export", {})
        if export.get("target") == "torch-tensorrt":
            if not self._on_gpu:
                raise BackendError(
                    "a torch-tensorrt export needs an NVIDIA GPU, and PyTorch finds none"
                )
            if importlib.util.find_spec("torch_tensorrt") is None:
                raise BackendError(
                    "a torch-tensorrt export needs torch-tensorrt",
                    remedy="pip install torch-tensorrt",
                )
            importlib.import_module("torch_tensorrt")  # registers its operators
        try:
            return torch.export.load(self.bundle.file).module()
        except Exception as error:  # torch raises exceptions of any kind here
            reason = first_line(error)
            raise ModelError.at(self.bundle.file, f"PyTorch cannot read it: {reason}") from error

    def _run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        import torch

        if not self._on_gpu:
            return _maps(self._network(*inputs))
        own_code_in_f16 = self.bundle.file.suffix == ".onnx" and self.precision == "f16"
        with torch.autocast("cuda", torch.float16, enabled=own_code_in_f16):
            return _maps(self._network(*inputs))

    def infer(self, image: Map, previous: Map) -> Maps:
        import torch

        inputs = [torch.from_numpy(value) for value in self.feeds(image, previous).values()]
        with torch.inference_mode():
            if not self._on_gpu:
                results = self._run(inputs)
            else:
                if image.shape not in self._graphs:
                    self._graphs[image.shape] = _CudaGraph(self._run, inputs)
                results = self._graphs[image.shape].replay(inputs)
            return self.within_range(result[0, 0].float().cpu().numpy() for result in results)

    def close(self) -> None:
        self._graphs.clear()


class _CudaGraph:
    """A captured run over fixed inputs and outputs."""

    def __init__(self, run: Any, inputs: list[torch.Tensor]) -> None:  # noqa: ANN401
        import torch

        self._inputs = [value.cuda() for value in inputs]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):  # lazy initialisation must not be captured
            for _ in range(3):
                run(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._outputs: list[torch.Tensor]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = run(self._inputs)

    def replay(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        for fixed, value in zip(self._inputs, inputs, strict=True):
            fixed.copy_(value)
        self._graph.replay()
        return self._outputs


def _maps(prediction: Any) -> list[torch.Tensor]:  # noqa: ANN401
    """The maps: the first entries of both a network's Prediction and a program's tuple."""
    return list(prediction[: len(Maps._fields)])
