"""Inference backends, and the choice among them."""

from __future__ import annotations

import logging
from collections.abc import Container, Generator, Iterable
from contextlib import closing
from typing import NamedTuple

from fusematte.engine.backends.base import Backend, Maps
from fusematte.engine.backends.onnxruntime_backend import OnnxRuntimeBackend
from fusematte.engine.backends.openvino_backend import OpenVinoBackend
from fusematte.engine.backends.spec import Spec
from fusematte.engine.backends.tensorrt.backend import TensorRtBackend
from fusematte.engine.backends.torch_backend import TorchBackend
from fusematte.engine.backends.tuning import Work, choose, tuning_key
from fusematte.engine.errors import BackendError
from fusematte.engine.models import Bundle
from fusematte.engine.pipeline import network_threads

__all__ = ["BACKENDS", "Backend", "Maps", "Spec", "Work", "candidates", "create_backend"]

log = logging.getLogger(__name__)

BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend
    for backend in (TensorRtBackend, OpenVinoBackend, OnnxRuntimeBackend, TorchBackend)
}
"""In the order in which ``auto`` tries them."""


def create_backend(
    wish: str | Spec,
    bundle: Bundle,
    *,
    threads: int | None = None,
    work: Work = "file",
    without: Container[Spec] = (),
) -> Backend:
    """Creates the requested backend; parts of the request that are left open are chosen by
    measurement, see ``tuning``.

    Args:
        wish: ``auto``, or ``NAME[:DEVICE][:PRECISION]``, where NAME may be ``auto`` as well.
        threads: CPU threads; None takes the number measured best for ``work``.
        work: the kind of work that runs beside inference.
        without: specs that have failed before and are not tried again.

    Raises:
        BackendError: no such backend, or it cannot run here; with ``auto``, none can run, and the
            message lists each one's reason.
    """
    wish = Spec.parse(wish) if isinstance(wish, str) else wish
    named = wish.backend != "auto"
    if named and wish.backend not in BACKENDS:
        raise BackendError(
            f"there is no backend {wish.backend!r}",
            option="backend",
            remedy=f"use auto, {', '.join(BACKENDS)}",
        )
    passed_over: list[tuple[int, Spec, str]] = []
    with closing(_attempts(wish, bundle, threads, work)) as attempts:
        for attempt in attempts:
            if attempt.spec in without:
                continue
            level, reason = logging.INFO, _why_not(attempt.spec, bundle)
            if reason is None:
                try:
                    backend = attempt.ready or _make(attempt.spec, bundle, attempt.threads)
                except BackendError as error:  # unexpected: it is available
                    level, reason = logging.WARNING, str(error)
                else:
                    backend.spec, backend.threads = attempt.spec, attempt.threads
                    for level, spec, reason in passed_over:
                        log.log(level, "backend %s is not used: %s", spec, reason)
                    _tell(bundle, backend)
                    return backend
            elif named:
                reason = f"backend {attempt.spec} cannot run here: {reason}"
            passed_over.append((level, attempt.spec, reason))
    reasons = "; ".join(f"{spec}: {reason}" for _, spec, reason in passed_over)
    message = f"no backend can run here: {reasons}"
    if named:
        message = passed_over[-1][2] if passed_over else f"backend {wish} has no other device"
    raise BackendError(message, option="backend")


class Attempt(NamedTuple):
    """A backend to try; ``ready``: it was already created for timing."""

    spec: Spec
    threads: int | None
    ready: Backend | None = None


def _attempts(
    wish: Spec, bundle: Bundle, threads: int | None, work: Work
) -> Generator[Attempt, None, None]:
    """The backends in order of preference.  The tunable ones come fastest first, as measured."""
    kinds = BACKENDS.values() if wish.backend == "auto" else [BACKENDS[wish.backend]]
    tuned = [kind for kind in kinds if kind.tunable and not _why_not(_plain(kind, wish), bundle)]
    pinned = wish.backend != "auto" and None not in (wish.device, wish.precision)
    unmeasured = network_threads(live=work == "live") if threads is None else threads
    for kind in kinds:
        if tuned[:1] == [kind] and not pinned:
            yield from _fastest_first(tuned, wish, bundle, threads, work)
        yield Attempt(_plain(kind, wish), unmeasured)


def _fastest_first(
    kinds: list[type[Backend]], wish: Spec, bundle: Bundle, threads: int | None, work: Work
) -> Generator[Attempt, None, None]:
    try:
        choice = choose(
            lambda: candidates(kinds, wish, bundle),
            lambda spec, threads: _make(spec, bundle, threads),
            bundle,
            tuning_key(bundle, wish, work=work, threads=threads),
        )
    except BackendError as error:
        log.info("no backend could be timed: %s", error)
        return
    try:
        for timing in choice.timings:
            ready = choice.ready.pop(timing.spec, None)
            yield Attempt(Spec.parse(timing.spec), timing.threads, ready)
    finally:
        for backend in choice.ready.values():
            backend.close()


def candidates(
    kinds: Iterable[type[Backend]], wish: Spec, bundle: Bundle, *, thorough: bool = False
) -> list[Spec]:
    """The devices and precisions of these backends that ``wish`` allows, the best guess first;
    int8 only if it is within the model's accuracy bound."""
    offered = (
        Spec(kind.name, device, precision)
        for kind in kinds
        for device, precision in kind.candidates(bundle, thorough=thorough)
    )
    inaccurate = None if bundle.int8_is_accurate else "int8"
    return [spec for spec in offered if wish.allows(spec) and spec.precision != inaccurate]


def _plain(kind: type[Backend], wish: Spec) -> Spec:
    return Spec(kind.name, wish.device, wish.precision)


def _make(spec: Spec, bundle: Bundle, threads: int | None) -> Backend:
    backend = BACKENDS[spec.backend](
        bundle, device=spec.device, precision=spec.precision, threads=threads
    )
    if spec.precision not in (None, backend.precision):
        backend.close()
        raise BackendError(
            f"{spec.backend} runs {bundle.name} in {backend.precision} on {backend.device}, "
            f"not in {spec.precision}",
            option="backend",
        )
    return backend


def _why_not(spec: Spec, bundle: Bundle) -> str | None:
    backend = BACKENDS[spec.backend]
    if bundle.file.suffix not in backend.reads:
        return f"it reads {' and '.join(backend.reads)}, not {bundle.file.name}"
    if spec.device not in (None, *backend.devices):
        return f"it has no device {spec.device}, only {', '.join(backend.devices)}"
    return backend.unavailable()


def _tell(bundle: Bundle, backend: Backend) -> None:
    log.info(
        "model %s %s on %s, %s, %s",
        bundle.name, bundle.version, backend.name, backend.device, backend.precision,
    )  # fmt: skip
