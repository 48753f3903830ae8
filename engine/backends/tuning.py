"""Which device and precision is fastest on this machine: measured once, then kept.

No list of processor features tells it: of two processors with bf16, one was five times as fast in
int8 as in bf16, another twice as fast in bf16.  So at the first use of a model the candidates are
compiled side by side and timed in turns at the network's size.  That happens before the first
frame and not behind the running job, because a change halfway would make a job's result depend on
when it came.  It takes little more than the compilation that a first use waits for anyway; what is
not compiled in time is left to the next start, which finds it compiled.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, NamedTuple

import numpy as np

from fusematte.cpp_ext import instruction_sets
from fusematte.engine.backends.base import Backend
from fusematte.engine.backends.cache import Cache, CacheKey
from fusematte.engine.backends.openvino_backend import OpenVinoBackend, load_openvino, processor
from fusematte.engine.backends.spec import PRECISIONS, Spec
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.frame import Map
from fusematte.engine.models import Bundle
from fusematte.engine.pipeline import network_threads, processors

log = logging.getLogger(__name__)

Work = Literal["file", "live"]
"""What goes on beside the network: a file's decoder and encoder, or a camera's."""

PATIENCE = 0.5
"""Seconds for which the first candidate, ready to work, waits for the others."""
ROUNDS = 5
"""Frames by which each candidate is timed."""
HOPELESS = 1.5
"""A candidate that takes so many times as long as the fastest is timed no further."""
TIE = 1.03
"""Of candidates that differ by less, the most accurate one is taken."""
SAME_MATTE = 0.02
"""The mean difference of alpha from the most accurate candidate's that a working device stays
within; rounding makes a tenth of it."""

Make = Callable[[Spec, int | None], Backend]
"""Makes a candidate with so many threads; raises FuseMatteError."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A candidate: its ``Spec`` as text, threads (None: its own choice) and ms per frame."""

    spec: str
    threads: int | None
    ms: float

    def __str__(self) -> str:
        threads = "" if self.threads is None else f" with {self.threads} threads"
        return f"{self.spec}{threads}, {self.ms:.1f} ms a frame"


@dataclass(frozen=True, kw_only=True)
class TuningKey(CacheKey):
    """Everything that the choice depends on."""

    processor: str
    processors: int
    runtimes: str
    model: str
    size: tuple[int, int]
    work: str
    wish: str
    threads: int | None
    kind: str = "tuning"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The candidates, the one to take first, and whether ``fusematte tune`` found it or the first
    use."""

    timings: tuple[Timing, ...]
    thorough: bool
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    def __str__(self) -> str:
        best, *others = self.timings
        how = "fusematte tune" if self.thorough else "its first use"
        rest = "; ".join(map(str, others)) or "nothing else"
        return f"{best} (after {rest}), measured by {how}, {self.date}"


class Ranking(NamedTuple):
    """What to take, the fastest first, and those of them that are already compiled, by spec."""

    timings: tuple[Timing, ...]
    ready: dict[str, Backend]


def tuning_key(bundle: Bundle, wish: Spec, *, work: Work, threads: int | None = None) -> TuningKey:
    """The key of a model on this machine."""
    processor, runtimes = _machine()
    manifest, int8 = bundle.manifest, bundle.int8
    networks = [manifest["sha256"], *([] if int8 is None else [manifest["files"][int8.name]])]
    return TuningKey(
        processor=processor,
        processors=processors(),
        runtimes=runtimes,
        model=" ".join(networks),
        size=bundle.only_size or bundle.default_size,
        work=work,
        wish=str(wish),
        threads=threads,
    )


def recall(key: TuningKey) -> Tuning | None:
    """What was found on this machine before, if anything was."""
    kept = Cache().load(key)
    if kept is None:
        return None
    fields = json.loads(kept)
    return Tuning(**(fields | {"timings": tuple(Timing(**t) for t in fields["timings"])}))


def keep(key: TuningKey, tuning: Tuning) -> bool:
    """Keeps it for the next start; returns whether that was possible."""
    return Cache().store(key, json.dumps(asdict(tuning)).encode())


def choose(
    candidates: Callable[[], Sequence[Spec]], make: Make, bundle: Bundle, key: TuningKey
) -> Ranking:
    """The candidates, fastest first: as they were found before, or by timing them now.

    Args:
        candidates: finds them, the best guess first; it may take a while.

    Raises:
        FuseMatteError: none can be made; that of the first.
    """
    if (known := recall(key)) is not None:
        return Ranking(known.timings, {})
    threads = network_threads() if key.threads is None else key.threads
    found = candidates()
    if len(found) < 2:
        return Ranking(tuple(Timing(spec=str(spec), threads=threads, ms=0) for spec in found), {})
    log.info("first use of %s %s on this machine: timing %s",
             bundle.name, bundle.version, ", ".join(map(str, found)))  # fmt: skip
    ready, unfinished = _made(found, lambda spec: make(spec, threads), key.size)
    times = time_in_turns(ready, key.size)
    timings = tuple(
        Timing(spec=str(spec), threads=threads, ms=round(ms, 2)) for spec, ms in ranked(times)
    )
    if unfinished:
        log.info("the next start times %s as well", ", ".join(map(str, unfinished)))
    else:
        keep(key, Tuning(timings=timings, thorough=False))
    return Ranking(timings, {str(spec): backend for spec, backend in ready.items()})


def ranked(times: Mapping[Spec, float]) -> list[tuple[Spec, float]]:
    """Fastest first; of those that tie with the fastest, the most accurate first."""
    best = min(times.values())

    def order(item: tuple[Spec, float]) -> tuple[float, int]:
        spec, ms = item
        return (best if ms <= TIE * best else ms), PRECISIONS.index(spec.precision or "f32")

    return sorted(times.items(), key=order)


def _made(
    candidates: Sequence[Spec], make: Callable[[Spec], Backend], size: tuple[int, int]
) -> tuple[dict[Spec, Backend], list[Spec]]:
    """Those that are compiled, and those that are not yet; what fails is told of and left out."""
    pool = ThreadPoolExecutor(max_workers=processors(), thread_name_prefix="tuning")
    futures = {spec: pool.submit(_compiled, make, spec, size) for spec in candidates}
    first, *others = futures.values()
    wait([first])
    wait(others, timeout=PATIENCE)
    pool.shutdown(wait=False)
    ready: dict[Spec, Backend] = {}
    unfinished: list[Spec] = []
    errors: list[BaseException] = []
    for spec, future in futures.items():
        if not future.done():
            unfinished.append(spec)
            future.add_done_callback(_close)
        elif (error := future.exception()) is None:
            ready[spec] = future.result()
        elif isinstance(error, FuseMatteError):
            log.info("not on %s: %s", spec, error)
            errors.append(error)
        else:
            raise error
    if not ready:
        if unfinished:  # the guess failed: then the others are worth waiting for
            return _made(unfinished, make, size)
        raise errors[0]
    return ready, unfinished


def _compiled(make: Callable[[Spec], Backend], spec: Spec, size: tuple[int, int]) -> Backend:
    backend = make(spec)
    try:
        backend.infer(*_inputs(size))
    except FuseMatteError:
        backend.close()
        raise
    return backend


def _close(late: Future[Backend]) -> None:
    if late.exception() is None:
        late.result().close()


def _inputs(size: tuple[int, int]) -> tuple[Map, Map]:
    """A patchwork: pure noise looks like nothing to any network."""
    height, width = size
    patches = np.random.default_rng(0).random((1, 3, -(-height // 16), -(-width // 16)), np.float32)
    image = patches.repeat(16, 2).repeat(16, 3)[..., :height, :width]
    return np.ascontiguousarray(image), np.zeros((1, 1, height, width), np.float32)


def time_in_turns(backends: Mapping[Spec, Backend], size: tuple[int, int]) -> dict[Spec, float]:
    """Milliseconds of the fastest of ``ROUNDS`` frames, in turns, so that noise meets all alike.

    A device that gives other mattes than the most accurate candidate is told of and left out.
    """
    inputs = _inputs(size)
    times: dict[Spec, float] = dict.fromkeys(backends, float("inf"))
    alphas = {spec: backend.infer(*inputs).alpha for spec, backend in backends.items()}
    truth = alphas[min(alphas, key=lambda spec: PRECISIONS.index(spec.precision or "f32"))]
    for spec, alpha in alphas.items():
        off = float(np.abs(alpha - truth).mean())
        if not off <= SAME_MATTE:
            log.warning("%s gives other mattes than it should (off by %.3f): not used", spec, off)
            del times[spec]
    for _ in range(ROUNDS):
        hopeless = HOPELESS * min(times.values())
        for spec in [spec for spec, ms in times.items() if ms <= hopeless]:
            begun = time.perf_counter()
            backends[spec].infer(*inputs)
            times[spec] = min(times[spec], 1e3 * (time.perf_counter() - begun))
    return times


def _machine() -> tuple[str, str]:
    """The processor, and the versions of what runs networks on it."""
    if OpenVinoBackend.unavailable():
        return f"{platform.machine()}, {' '.join(instruction_sets())}", _onnxruntime()
    openvino = load_openvino()
    return processor(openvino.Core()), f"openvino {openvino.get_version()}, {_onnxruntime()}"


def _onnxruntime() -> str:
    try:
        return f"onnxruntime {version('onnxruntime')}"
    except PackageNotFoundError:
        return "no onnxruntime"
