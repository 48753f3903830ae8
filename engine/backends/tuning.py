"""Measures which device and precision is fastest on this machine, once, and caches the result.

Processor features do not predict it: of two processors with bf16, one was five times as fast in
int8 as in bf16, the other twice as fast in bf16.  So at the first use of a model the candidates are
compiled on the work's share of the processors and timed in turns at the network's size.  That
happens before the first frame rather than in the background: a switch in the middle of a job would
make its result depend on timing.  The first use waits for the compilation of the best guess, which
it needs anyway, and for little more: candidates that are not compiled by then are left to the next
start, which finds them in the cache.
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
"""The kind of work beside inference: decoding and encoding of a file, or a live session."""

PATIENCE = 0.8
"""Seconds to wait for the other candidates; for the best guess as long as it takes."""
ROUNDS = 5
"""Timed frames per candidate."""
HOPELESS = 1.5
"""A candidate slower than this multiple of the fastest is timed no further."""
TIE = 1.03
"""Among candidates within this factor of the fastest, the most accurate one is chosen."""
SAME_MATTE = 0.15
"""Largest mean alpha difference to the most accurate candidate that a working device may have; int8
has up to 0.08 on these pictures, which look like nothing, and 0.002 on people.  Alphas of nothing
but zeros would have 0.8."""

Make = Callable[[Spec, int | None], Backend]
"""Creates a candidate with a number of threads; raises FuseMatteError."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A timed candidate: its ``Spec`` as text, threads (None: its default) and ms per frame."""

    spec: str
    threads: int | None
    ms: float

    def __str__(self) -> str:
        threads = "" if self.threads is None else f" with {self.threads} threads"
        return f"{self.spec}{threads}, {self.ms:.1f} ms a frame"


@dataclass(frozen=True, kw_only=True)
class TuningKey(CacheKey):
    """Cache key: everything that the choice depends on."""

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
    """The cached result: the timings, best first; ``thorough`` if ``fusematte tune`` measured them,
    not the first use."""

    timings: tuple[Timing, ...]
    thorough: bool
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    def __str__(self) -> str:
        best, *others = self.timings
        how = "fusematte tune" if self.thorough else "the first use"
        rest = "; ".join(map(str, others)) or "none came close"
        return f"{best} (others: {rest}), measured by {how}, {self.date}"


class Ranking(NamedTuple):
    """The candidates, fastest first, and the backends already compiled, by spec."""

    timings: tuple[Timing, ...]
    ready: dict[str, Backend]


def tuning_key(bundle: Bundle, wish: Spec, *, work: Work, threads: int | None = None) -> TuningKey:
    """The cache key for a model on this machine."""
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
    """The cached result, if there is one."""
    kept = Cache().load(key)
    if kept is None:
        return None
    fields = json.loads(kept)
    return Tuning(**(fields | {"timings": tuple(Timing(**t) for t in fields["timings"])}))


def keep(key: TuningKey, tuning: Tuning) -> bool:
    """Caches a result; returns whether that worked."""
    return Cache().store(key, json.dumps(asdict(tuning)).encode())


def choose(
    candidates: Callable[[], Sequence[Spec]], make: Make, bundle: Bundle, key: TuningKey
) -> Ranking:
    """The candidates, fastest first: from the cache, or by timing them now.

    Args:
        candidates: lists them, the best guess first; it may take a while.

    Raises:
        FuseMatteError: no candidate can be created; the error of the first one.
    """
    if (known := recall(key)) is not None:
        return Ranking(known.timings, {})
    threads = network_threads(live=key.work == "live") if key.threads is None else key.threads
    found = candidates()
    if len(found) < 2:
        return Ranking(tuple(Timing(spec=str(spec), threads=threads, ms=0) for spec in found), {})
    log.info("first use of %s %s on this machine: timing %s",
             bundle.name, bundle.version, ", ".join(map(str, found)))  # fmt: skip
    ready, unfinished = _made(found, lambda spec: make(spec, threads), key.size)
    alone = unfinished and len(ready) == 1
    times = dict.fromkeys(ready, 0.0) if alone else time_in_turns(ready, key.size)
    timings = tuple(
        Timing(spec=str(spec), threads=threads, ms=round(ms, 2)) for spec, ms in ranked(times)
    )
    if unfinished:
        log.info("not compiled in time, so left to the next start: %s",
                 ", ".join(map(str, unfinished)))  # fmt: skip
    else:
        keep(key, Tuning(timings=timings, thorough=False))
    return Ranking(timings, {str(spec): backend for spec, backend in ready.items()})


def ranked(times: Mapping[Spec, float]) -> list[tuple[Spec, float]]:
    """Sorted fastest first; among those within ``TIE`` of the fastest, most accurate first."""
    best = min(times.values())

    def order(item: tuple[Spec, float]) -> tuple[float, int]:
        spec, ms = item
        return (best if ms <= TIE * best else ms), PRECISIONS.index(spec.precision or "f32")

    return sorted(times.items(), key=order)


def _made(
    candidates: Sequence[Spec], make: Callable[[Spec], Backend], size: tuple[int, int]
) -> tuple[dict[Spec, Backend], list[Spec]]:
    """Compiles the candidates: those that are ready, and those not yet done.  Candidates that fail
    are logged and left out."""
    deadline = time.monotonic() + PATIENCE
    workers = max(1, processors() // 2)  # the guess is ready soonest when it has them to itself
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tuning")
    futures = {spec: pool.submit(_compiled, make, spec, size) for spec in candidates}
    first, *others = futures.values()
    wait([first])
    wait(others, timeout=max(0, deadline - time.monotonic()))
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
            log.info("backend %s is not used: %s", spec, error)
            errors.append(error)
        else:
            raise error
    if not ready:
        if unfinished:  # the best guess failed, so the others are worth waiting for
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
    """A test image of random patches; networks respond to pure noise with nothing."""
    height, width = size
    patches = np.random.default_rng(0).random((1, 3, -(-height // 16), -(-width // 16)), np.float32)
    image = patches.repeat(16, 2).repeat(16, 3)[..., :height, :width]
    return np.ascontiguousarray(image), np.zeros((1, 1, height, width), np.float32)


def time_in_turns(backends: Mapping[Spec, Backend], size: tuple[int, int]) -> dict[Spec, float]:
    """Milliseconds of the fastest of ``ROUNDS`` frames, in turns, so that load affects all alike.

    A device whose mattes differ from the most accurate candidate's is left out, with a warning.
    """
    inputs = _inputs(size)
    times: dict[Spec, float] = dict.fromkeys(backends, float("inf"))
    alphas = {spec: backend.infer(*inputs).alpha for spec, backend in backends.items()}
    truth = alphas[min(alphas, key=lambda spec: PRECISIONS.index(spec.precision or "f32"))]
    for spec, alpha in alphas.items():
        off = float(np.abs(alpha - truth).mean())
        if not off <= SAME_MATTE:
            log.warning("%s is not used: its mattes are wrong (off by %.3f)", spec, off)
            del times[spec]
    for _ in range(ROUNDS):
        hopeless = HOPELESS * min(times.values())
        for spec in [spec for spec, ms in times.items() if ms <= hopeless]:
            begun = time.perf_counter()
            backends[spec].infer(*inputs)
            times[spec] = min(times[spec], 1e3 * (time.perf_counter() - begun))
    return times


def _machine() -> tuple[str, str]:
    """The processor, and the versions of the inference runtimes."""
    if OpenVinoBackend.unavailable():
        return f"{platform.machine()}, {' '.join(instruction_sets())}", _onnxruntime()
    openvino = load_openvino()
    return processor(openvino.Core()), f"openvino {openvino.get_version()}, {_onnxruntime()}"


def _onnxruntime() -> str:
    try:
        return f"onnxruntime {version('onnxruntime')}"
    except PackageNotFoundError:
        return "no onnxruntime"
