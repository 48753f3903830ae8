"""One compiled model for everyone in the process who asks for the same one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.backends import create_backend
from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.models import Bundle
from fusematte.engine.pipeline import network_threads

_Key = tuple[str, str, str, int]


@dataclass
class _Shared:
    backend: Backend
    users: int = 0
    turn: threading.Lock = field(default_factory=threading.Lock)


_pool: dict[_Key, _Shared] = {}
_pool_lock = threading.Lock()


class Lease:
    """The use of a backend that others may use as well; they run one after the other.

    The last one to close its lease closes the backend.

    threads: CPU threads; None takes half of the processors (``network_threads``).

    Raises:
        ModelError, BackendError: as ``create_backend``.
    """

    def __init__(self, name: str, bundle: Bundle, *, threads: int | None = None) -> None:
        threads = network_threads(threads)
        self._key: _Key | None = name, str(bundle.file), str(bundle.manifest["sha256"]), threads
        with _pool_lock:
            if self._key not in _pool:
                _pool[self._key] = _Shared(create_backend(name, bundle, threads=threads))
            self._shared = _pool[self._key]
            self._shared.users += 1

    @property
    def backend(self) -> Backend:
        """Whose use it is: for its name, device and precision."""
        return self._shared.backend

    def infer(self, image: NDArray[np.float32], previous: NDArray[np.float32]) -> Maps:
        """``Backend.infer``, from any thread."""
        with self._shared.turn:
            return self._shared.backend.infer(image, previous)

    def close(self) -> None:
        """Ends the use; may be called twice."""
        with _pool_lock:
            if self._key is None:
                return
            self._shared.users -= 1
            if not self._shared.users:
                del _pool[self._key]
                with self._shared.turn:
                    self._shared.backend.close()
            self._key = None
