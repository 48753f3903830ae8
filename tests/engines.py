"""TensorRT engines without TensorRT: objects that have what was recorded of its classes, no more.

The surfaces were recorded from the wheels of TensorRT 10, TensorRT 11 and TensorRT-RTX, see
engine/record_tensorrt.py: a call that a version does not have, or with an argument too many, fails.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SURFACES = json.loads(
    (
        Path(__file__).parent / "engine" / "backends" / "tensorrt" / "tensorrt_surfaces.json"
    ).read_text("utf-8")
)
RTX = next(name for name in SURFACES if "rtx" in name)
Floats = NDArray[np.float32]
Shape = tuple[int, ...]
INPUTS = ("image", "previous")
OUTPUTS = ("alpha", "foreground", "background", "beta")


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class Strategy(Enum):
    STATIC = 0
    USER_MANAGED = 2


class Recorded:
    """An object of a recorded class: members of ``real``, as far as that version has them."""

    def __init__(self, surface: dict[str, Any], kind: str, real: object) -> None:
        self._members, self._kind, self._real = surface["classes"][kind], kind, real

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name not in self._members:
            raise AttributeError(f"{self._kind} of this version has no {name}")
        value = getattr(self._real, name)
        overloads = self._members[name]
        return self._checked(name, value, overloads) if overloads else value

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name not in self._members:
            raise AttributeError(f"{self._kind} of this version has no {name}")
        object.__setattr__(self, name, value)

    def _checked(
        self, name: str, call: Callable[..., Any], overloads: list[list[str]]
    ) -> Callable[..., Any]:
        def checked(*arguments: object) -> Any:  # noqa: ANN401
            fits = [
                sum(not argument.endswith("?") for argument in overload)
                <= len(arguments)
                <= len(overload)
                for overload in overloads
            ]
            assert any(fits), f"{self._kind}.{name}{arguments}"
            return call(*arguments)

        return checked


def means(feeds: Mapping[str, Floats]) -> dict[str, Floats]:
    """A network that is easily foretold: alpha is the mean of the image, the others follow."""
    image, previous = feeds["image"].mean(), feeds["previous"].mean()
    return {name: image + index * previous for index, name in enumerate(OUTPUTS)}


class Engine:
    """An engine with edge's inputs and outputs, or others.

    view: the memory at an address, as an array of a shape.
    compute: outputs by name from inputs by name.
    schedule: puts work on a stream, given by its handle.
    layers: what else one run puts on the stream: its handle, addresses and shapes of tensors by
        name.
    """

    inputs = INPUTS
    outputs = OUTPUTS
    least, best, most = (32, 32), (64, 96), (96, 128)

    def __init__(
        self,
        surface: dict[str, Any],
        view: Callable[[int, Shape], Floats],
        compute: Callable[[Mapping[str, Floats]], Mapping[str, Any]] = means,
        schedule: Callable[[int, Callable[[], None]], None] = lambda _, work: work(),
        modes: Any = Mode,  # noqa: ANN401
    ) -> None:
        self.surface, self.view, self.compute, self.schedule = surface, view, compute, schedule
        self.modes = modes
        self.layers: Callable[[int, dict[str, int], dict[str, Shape]], None] | None = None
        self.contexts: list[Context] = []
        self.strategies: list[Any] = []
        self.cache = SimpleNamespace(
            deserialize=lambda blob: blob == b"kernels", serialize=lambda: b"kernels"
        )
        self.config = Recorded(
            surface,
            "IRuntimeConfig",
            SimpleNamespace(
                create_runtime_cache=lambda: Recorded(surface, "IRuntimeCache", self.cache),
                set_runtime_cache=lambda _: True,
                set_execution_context_allocation_strategy=self.strategies.append,
            ),
        )

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return (*self.inputs, *self.outputs)[index]

    def get_tensor_mode(self, name: str) -> Any:  # noqa: ANN401
        return self.modes.INPUT if name in self.inputs else self.modes.OUTPUT

    def get_tensor_shape(self, name: str) -> Shape:
        return 1, 3 if name in ("image", "guide") else 1, -1, -1

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Shape]:
        assert profile == 0
        return [(*self.get_tensor_shape(name)[:2], *s) for s in (self.least, self.best, self.most)]

    def create_runtime_config(self) -> Recorded:
        return self.config

    def create_execution_context(self, config: Any) -> Recorded | None:  # noqa: ANN401
        if "CudaGraphStrategy" in self.surface["module"]:
            assert config is self.config
            (config,) = self.strategies
        assert config.name == "USER_MANAGED"
        self.contexts.append(Context(self))
        return Recorded(self.surface, "IExecutionContext", self.contexts[-1])


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.runs = engine, 0
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.memory: int | None = None

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        return self.shapes.get(name, (1, 1, *self.shapes["image"][2:]))

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self.shapes) == set(self.engine.inputs)
        return 4 * math.prod(self.shapes["image"])

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == self.update_device_memory_size_for_shapes()
        self.memory = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.memory is not None
        shapes = {name: self.get_tensor_shape(name) for name in self.addresses}
        maps = {n: self.engine.view(address, shapes[n]) for n, address in self.addresses.items()}

        def run() -> None:
            self.runs += 1
            self.engine.view(self.memory, self.shapes["image"])[:] = np.nan
            feeds = {name: maps[name] for name in self.engine.inputs}
            for name, values in self.engine.compute(feeds).items():
                maps[name][:] = values

        self.engine.schedule(stream_handle, run)
        if self.engine.layers is not None:
            self.engine.layers(stream_handle, self.addresses, shapes)
        return True
