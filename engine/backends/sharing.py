"""Sharing of compiled models: within a process, each model is compiled and held once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.backends import Spec, Work, create_backend
from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.errors import BackendError
from fusematte.engine.models import Bundle

_Key = tuple[str, str, str, int | None]


@dataclass
class _Shared:
    backend: Backend
    make: Callable[..., Backend]
    users: int = 0
    chosen: bool = False
    """Whether a lease without a number of threads gets this one."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    failed: list[Spec] = field(default_factory=list)

    def replace(self, error: BackendError) -> None:
        """Switches to the next backend after this one has failed with ``error``.

        Raises:
            BackendError: ``error``, if there is no other backend.
        """
        self.failed.append(self.backend.spec)
        try:
            replacement = self.make(without=self.failed)
        except BackendError:
            raise error from None
        log.warning("%s; continuing with %s", error, replacement.spec)
        self.backend.close()
        self.backend = replacement


log = logging.getLogger(__name__)

_pool: dict[_Key, _Shared] = {}
_pool_lock = threading.Lock()


def users() -> list[int]:
    """How many leases use each of the compiled networks."""
    return [shared.users for shared in _pool.values()]


def _in_use(network: tuple[str, str, str], threads: int | None) -> _Key | None:
    for key, shared in _pool.items():
        if key[:3] == network and (shared.chosen if threads is None else key[3] == threads):
            return key
    return None


class Lease:
    """Shared use of a backend; calls of several leases run one after the other.

    Closing the last lease closes the backend.  If a device fails at run time and was not requested
    by name, the next one that works replaces it, with a warning.

    threads, work: as for ``create_backend``; a backend already in use is taken as it is.

    Raises:
        ModelError, BackendError: as ``create_backend``.
    """

    def __init__(
        self,
        wish: str,
        bundle: Bundle,
        *,
        threads: int | None = None,
        work: Work = "file",
    ) -> None:
        network = wish, str(bundle.file), str(bundle.manifest["sha256"])
        again = partial(create_backend, wish, bundle, threads=threads, work=work)
        with _pool_lock:
            self._key: _Key | None = _in_use(network, threads)
            if self._key is None:
                made = again()
                self._key = *network, made.threads
                if self._key in _pool:  # the number of threads chosen is already in use
                    made.close()
                else:
                    _pool[self._key] = _Shared(made, again)
                _pool[self._key].chosen |= threads is None
            self._shared = _pool[self._key]
            self._shared.users += 1

    @property
    def backend(self) -> Backend:
        """The backend, for its name, device and precision."""
        return self._shared.backend

    def compile(self, shape: tuple[int, ...]) -> None:
        """``Backend.compile``, from any thread; does not take a turn, so others go on."""
        self._shared.backend.compile(shape)

    def infer(self, image: NDArray[np.float32], previous: NDArray[np.float32]) -> Maps:
        """``Backend.infer``, from any thread."""
        shared = self._shared
        with shared.turn:
            while True:
                try:
                    return shared.backend.infer(image, previous)
                except BackendError as error:
                    shared.replace(error)

    def close(self) -> None:
        """Ends the lease; may be called twice."""
        with _pool_lock:
            if self._key is None:
                return
            self._shared.users -= 1
            if not self._shared.users:
                del _pool[self._key]
                with self._shared.turn:
                    self._shared.backend.close()
            self._key = None
