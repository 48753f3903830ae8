"""The contract of an inference backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.backends.spec import Spec
from fusematte.engine.errors import BackendError, ModelError
from fusematte.engine.frame import Map
from fusematte.engine.models import Bundle


class Maps(NamedTuple):
    """What the network says of one frame: [h, w], float32, 0..1 each; the caller's to keep."""

    alpha: Map
    foreground: Map
    background: Map
    beta: Map


class Backend(ABC):
    """Runs one model on one device.

    Obligations of an implementation:

    - ``spec`` and ``threads``, what it was made with, are set by ``create_backend``.
    - ``unavailable()`` imports lazily, never raises, and returns None or one line that says why
      it cannot run here and what would make it.
    - ``reads`` are the endings of the model files that it loads.
    - ``tunable``: it has ``candidates``.
    - ``devices`` are those that the constructor takes, the one it would take by itself first.
    - The constructor loads the model and says in ``device`` and ``precision`` what it will run on
      and in; it raises ``BackendError`` or ``ModelError``, nothing else.  Where it has no choice of
      precision it may ignore what is asked for: ``create_backend`` looks at what came out.
    - ``infer`` accepts any height and width that are multiples of the bundle's; it may take long
      on the first call with a new size.  It is called from one thread at a time.
    - ``close`` may be called twice.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = (".onnx",)
    devices: ClassVar[tuple[str, ...]]
    tunable: ClassVar[bool] = False
    spec: Spec
    threads: int | None
    bundle: Bundle
    device: str
    precision: str

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """Why this backend cannot run here, or None if it can."""

    @classmethod
    def candidates(cls, bundle: Bundle, *, thorough: bool) -> list[tuple[str, str]]:  # noqa: ARG003
        """Devices and precisions among which the fastest is to be found, the best guess first;
        ``thorough``: those too that are hardly ever it."""
        return []

    @abstractmethod
    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Loads the model.

        Args:
            device: one of ``devices``.
            precision: one of ``PRECISIONS``.
            threads: bound of the CPU threads.

        None leaves each choice to the backend.
        """

    @abstractmethod
    def infer(self, image: NDArray[np.float32], previous: NDArray[np.float32]) -> Maps:
        """Runs the network.

        Shape:
            image: [1, 3, h, w], RGB, 0..1; previous: [1, 1, h, w], 0..1 (ignored by models that
            do not take it).
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what the backend holds."""

    def check_ports(self, inputs: set[str], outputs: set[str]) -> None:
        """For constructors: whether a network has what the manifest says and the engine uses.

        Raises:
            ModelError: it has not.
        """
        wanted = {"image", "previous"} if self.bundle.takes_previous else {"image"}
        if inputs != wanted or not outputs.issuperset(Maps._fields):
            raise ModelError(
                f"{self.bundle.file}: has inputs {sorted(inputs)} and outputs {sorted(outputs)}, "
                f"not {sorted(wanted)} and {sorted(Maps._fields)}; export it again"
            )

    @staticmethod
    def network_file(bundle: Bundle, precision: str | None) -> Path:
        """The network in int8 if that is asked for, else the model's own.

        Raises:
            BackendError: the model has none in int8.
        """
        if precision != "int8" or bundle.quantised:
            return bundle.file
        if bundle.int8 is None:
            raise BackendError(
                f"model {bundle.name} has no network in int8: leave --precision out, or add one "
                f"with fusematte export --precision int8"
            )
        return bundle.int8

    @staticmethod
    def within_range(maps: Iterable[NDArray[np.floating]]) -> Maps:
        """The caller's own copies, in 0..1: arithmetic leaves it by a bit of the last place."""
        return Maps(*(np.clip(part, 0, 1, dtype=np.float32) for part in maps))

    def feeds(self, image: Map, previous: Map) -> dict[str, Map]:
        """The inputs of this network by name."""
        return {"image": image} | ({"previous": previous} if self.bundle.takes_previous else {})
