"""Inference backends and the choice among them."""

from __future__ import annotations

import logging

from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.backends.onnxruntime_backend import OnnxRuntimeBackend
from fusematte.engine.backends.openvino_backend import OpenVinoBackend
from fusematte.engine.backends.tensorrt.backend import TensorRtBackend
from fusematte.engine.backends.torch_backend import TorchBackend
from fusematte.engine.errors import BackendError
from fusematte.engine.models import Bundle

__all__ = ["BACKENDS", "Backend", "Maps", "create_backend"]

log = logging.getLogger(__name__)

BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend
    for backend in (TensorRtBackend, OpenVinoBackend, OnnxRuntimeBackend, TorchBackend)
}
"""In the order in which ``auto`` tries them."""


def create_backend(name: str, bundle: Bundle, *, threads: int | None = None) -> Backend:
    """Makes the named backend, or with ``auto`` the first that can run here.

    Raises:
        BackendError: there is no such backend, or it cannot run; with ``auto``: none can, and the
            message gives each one's reason.
    """
    if name == "auto":
        backend = _first_that_runs(bundle, threads)
    else:
        backend = _named(name, bundle)(bundle, threads=threads)
    log.info(
        "model %s %s on %s, %s, %s",
        bundle.name,
        bundle.version,
        backend.name,
        backend.device,
        backend.precision,
    )
    return backend


def _named(name: str, bundle: Bundle) -> type[Backend]:
    if name not in BACKENDS:
        raise BackendError(f"no backend {name!r}; there are: auto, {', '.join(BACKENDS)}")
    reason = _why_not(BACKENDS[name], bundle)
    if reason:
        raise BackendError(f"backend {name} cannot run here: {reason}")
    return BACKENDS[name]


def _first_that_runs(bundle: Bundle, threads: int | None) -> Backend:
    reasons = []
    for kind in BACKENDS.values():
        level, reason = logging.INFO, _why_not(kind, bundle)
        if reason is None:
            try:
                return kind(bundle, threads=threads)
            except BackendError as error:  # it should have been able to
                level, reason = logging.WARNING, str(error)
        log.log(level, "not on %s: %s", kind.name, reason)
        reasons.append(f"{kind.name}: {reason}")
    raise BackendError(f"no backend can run here: {'; '.join(reasons)}")


def _why_not(backend: type[Backend], bundle: Bundle) -> str | None:
    if bundle.file.suffix not in backend.reads:
        return f"it reads {' and '.join(backend.reads)}, not {bundle.file.name}"
    return backend.unavailable()
