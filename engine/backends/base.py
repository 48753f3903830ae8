"""The interface of an inference backend."""

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
    """The network's outputs for one frame: [h, w], float32, 0..1 each; owned by the caller."""

    alpha: Map
    foreground: Map
    background: Map
    beta: Map


class Backend(ABC):
    """Runs one model on one device.

    Rules for an implementation:

    - ``create_backend`` sets ``spec`` and ``threads`` to what the backend was created with.
    - ``unavailable()`` imports lazily, never raises, and returns None, or one line that says why
      the backend cannot run here and what to do about it.
    - ``reads`` lists the suffixes of the model files it loads.
    - ``tunable`` says that ``candidates`` is implemented.
    - ``devices`` lists the devices the constructor accepts, its default first.
    - ``_open`` loads the model and sets ``device`` and ``precision`` to what will be used; it
      raises ``BackendError`` or ``ModelError``, nothing else.  A backend without a choice of
      precision may ignore the requested one: ``create_backend`` checks the result.
    - ``infer`` accepts any height and width that are multiples of the bundle's; the first call with
      a new size may take long.  It is called from one thread at a time.
    - ``close`` may be called twice.

    ``_open`` usually takes ``network_file``, loads it, and calls ``check_ports``.
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
        """Devices and precisions to be timed, the best guess first; ``thorough``: also those that
        are hardly ever the fastest."""
        return []

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
            threads: maximum number of CPU threads.

        None leaves the choice to the backend.
        """
        self.bundle = bundle
        self._open(device, precision, threads)

    @abstractmethod
    def _open(self, device: str | None, precision: str | None, threads: int | None) -> None:
        """Loads ``self.bundle``; the backend's part of the constructor."""

    def compile(self, shape: tuple[int, ...]) -> None:  # noqa: B027
        """Compiles the network for images of this shape, [1, 3, h, w], so that ``infer`` need not;
        from any thread, while ``infer`` runs.  Nothing where all sizes share one network."""

    @abstractmethod
    def infer(self, image: NDArray[np.float32], previous: NDArray[np.float32]) -> Maps:
        """Runs the network.

        Shape:
            image: [1, 3, h, w], RGB, 0..1; previous: [1, 1, h, w], 0..1 (ignored
            by models that do not take it).
        """

    @abstractmethod
    def close(self) -> None:
        """Frees the model and its memory."""

    def check_ports(self, inputs: set[str], outputs: set[str]) -> None:
        """For ``_open``: checks a network's inputs and outputs against the manifest.

        Raises:
            ModelError: they differ.
        """
        wanted = {"image", "previous"} if self.bundle.takes_previous else {"image"}
        if inputs != wanted or not outputs.issuperset(Maps._fields):
            raise ModelError.at(
                self.bundle.file,
                f"has inputs {sorted(inputs)} and outputs {sorted(outputs)} "
                f"instead of {sorted(wanted)} and {sorted(Maps._fields)}",
                remedy="export the model again",
            )

    @staticmethod
    def network_file(bundle: Bundle, precision: str | None) -> Path:
        """The bundle's int8 network if ``precision`` is int8, else its main one.

        Raises:
            BackendError: the bundle has no int8 network.
        """
        if precision != "int8" or bundle.quantised:
            return bundle.file
        if bundle.int8 is None:
            raise BackendError(
                f"model {bundle.name} has no int8 network",
                option="backend",
                remedy="leave out --precision, or add one with fusematte export --precision int8",
            )
        return bundle.int8

    @staticmethod
    def within_range(maps: Iterable[NDArray[np.floating]]) -> Maps:
        """Copies clipped to 0..1, which rounding can exceed by the last bit."""
        return Maps(*(np.clip(part, 0, 1, dtype=np.float32) for part in maps))

    def feeds(self, image: Map, previous: Map) -> dict[str, Map]:
        """The network's inputs by name."""
        return {"image": image} | ({"previous": previous} if self.bundle.takes_previous else {})
