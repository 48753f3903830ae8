"""Distribution of work over a Ray cluster (extra ``cluster``).

All machines must see the input, the background and the output's folder under the same paths.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Self, TypeVar

from fusematte.engine.backends.spec import Spec
from fusematte.engine.errors import BackendError, FuseMatteError, first_line

log = logging.getLogger(__name__)

Returned = TypeVar("Returned")

RETRIES = 3
"""How often a task is retried when its worker or machine dies."""
GPU_BACKENDS = ("tensorrt", "torch")
LOOPBACK = "127.0.0.1"
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable for whether machines may form clusters; in spite of its name it works on Linux."""
CONNECT_SECONDS = 5.0


class Cluster:
    """A connection to a Ray cluster.

    It implements ``jobs.workers.Workers``.

    address: ``HOST:PORT`` or ``ray://HOST:PORT`` of a running cluster; ``auto`` joins the one this
        machine is part of, or starts one on this machine alone.

    Raises:
        BackendError: Ray is not installed or does not start, or no cluster answers at the address.
    """

    threads = 1

    def __init__(self, address: str) -> None:
        self._ray = _load()
        self._owned = not self._ray.is_initialized()
        if self._owned:
            _connect(self._ray, address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self._ray.shutdown()

    def map(
        self,
        function: Callable[..., Returned],
        tasks: Sequence[tuple[Any, ...]],
        threads: int,
        backend: str,
    ) -> Iterator[Returned]:
        """See ``Workers.map``; a task whose worker died is repeated up to ``RETRIES`` times."""
        ray = self._ray
        remote = ray.remote(function).options(max_retries=RETRIES, **self._needs(threads, backend))
        waiting = [remote.remote(*task) for task in tasks]
        try:
            while waiting:
                ready, waiting = ray.wait(waiting, num_returns=1, timeout=1.0)
                for reference in ready:
                    yield _result(ray, reference)
        finally:
            for reference in waiting:
                ray.cancel(reference)

    def _needs(self, threads: int, backend: str) -> dict[str, float]:
        """The resources of one task.

        Raises:
            BackendError: no machine has them, so the task would wait forever.
        """
        needs = {"CPU": float(threads)}
        if Spec.parse(backend).backend in GPU_BACKENDS:
            needs["GPU"] = 1.0
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(k, 0) >= v for k, v in needs.items()) for node in nodes):
            wanted = ", ".join(f"{value:g} {name}" for name, value in needs.items())
            raise BackendError(
                f"no machine of the Ray cluster has {wanted}",
                option="cluster",
                remedy="lower --threads or change --backend",
            )
        return {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0.0)}


def _load() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise BackendError(
            "--cluster needs Ray", option="cluster", remedy="pip install 'fusematte[cluster]'"
        ) from error
    return ray


def _connect(ray: ModuleType, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address != "auto":
        _check_reachable(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address != "auto":
            raise BackendError(
                f"--cluster {address}: cannot be joined: {first_line(error)}", option="cluster"
            ) from error
        _start_here(ray, quiet)


def _start_here(ray: ModuleType, options: dict[str, Any]) -> None:
    """Starts a cluster that no other machine reaches: whoever does can run code on it.

    Raises:
        BackendError: it does not start.
    """
    try:
        with _loopback_allowed(ray):
            ray.init(include_dashboard=False, _node_ip_address=LOOPBACK, **options)
    except Exception as error:  # Ray raises the class itself when the machine is too slow
        raise BackendError(
            f"--cluster auto: Ray does not start here: {first_line(error)}",
            option="cluster",
            remedy="use --jobs on one machine, or try again when it has less to do",
        ) from error
    if (found := ray.util.get_node_ip_address()) != LOOPBACK:
        log.warning(
            "the Ray cluster that was started here listens on %s; other machines may reach it",
            found,
        )
        return
    log.info("no Ray cluster runs here, so one was started on this machine; others cannot reach it")


@contextmanager
def _loopback_allowed(ray: ModuleType) -> Iterator[None]:
    """Keeps ``ray.init`` from replacing a loopback address by the machine's own.

    Ray does so unless it is told that machines cannot form clusters: its processes by the variable,
    this process, which has already read that, by the constant.
    """
    constants, before = ray._private.ray_constants, os.environ.get(_CLUSTERS)
    found = constants.ENABLE_RAY_CLUSTER
    os.environ[_CLUSTERS], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = found
        del os.environ[_CLUSTERS]
        if before is not None:
            os.environ[_CLUSTERS] = before


def _check_reachable(address: str) -> None:
    """Fails at once if nothing answers at the address, for which Ray would wait minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise BackendError(
            f"--cluster {address}: is not an address",
            option="cluster",
            remedy="write auto, HOST:PORT or ray://HOST:PORT",
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BackendError(
            f"--cluster {address}: no answer ({error})",
            option="cluster",
            remedy="check that the cluster is running",
        ) from error


def _result(ray: ModuleType, reference: object) -> Any:  # noqa: ANN401
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FuseMatteError):
            raise error.cause from error
        raise BackendError(f"a task failed on the cluster: {first_line(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise BackendError(
            f"a task's worker died {RETRIES + 1} times on the cluster: {first_line(error)}"
        ) from error
