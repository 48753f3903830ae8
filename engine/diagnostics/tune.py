"""``fusematte tune``: times every backend, device and precision in real jobs on this machine."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from fusematte.engine.backends import BACKENDS, Backend, Spec, candidates, create_backend
from fusematte.engine.backends.tuning import (
    HOPELESS,
    Timing,
    Tuning,
    Work,
    keep,
    ranked,
    time_in_turns,
    tuning_key,
)
from fusematte.engine.errors import BackendError
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.single import run_once
from fusematte.engine.live.session import Session
from fusematte.engine.media.reader import Reader
from fusematte.engine.models import Bundle, load_bundle
from fusematte.engine.pipeline import processors

log = logging.getLogger(__name__)

HEIGHT, WIDTH, RATE = 720, 1280, 30
FILE_FRAMES = 90
"""Frames of the job that times a candidate; about three seconds."""
LIVE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A candidate with a number of threads.

    alone: ms per frame of inference with nothing else running; fps: of a 720p file job; latency:
    99th percentile in ms from a 720p frame to its composite in a live session at 30 fps.  fps and
    latency are None if inference alone was too slow.
    """

    spec: Spec
    threads: int
    alone: float
    fps: float | None = None
    latency: float | None = None

    def __str__(self) -> str:
        fps = "-" if self.fps is None else f"{self.fps:.1f}"
        latency = "-" if self.latency is None else f"{self.latency:.0f}"
        return f"{self.spec!s:24} {self.threads:7} {self.alone:9.1f} {fps:>9} {latency:>9}"


HEADER = f"{'candidate':24} {'threads':>7} {'alone ms':>9} {'file fps':>9} {'live ms':>9}"


def tune(model: str, wish: Spec, tell: Callable[[Row, int], None]) -> dict[Work, Tuning]:
    """Times every candidate with 1, 2, 4 ... threads, alone, in file jobs and in live sessions, and
    caches the best of each for later starts.

    tell: called with each row of the table and the number of rows.

    Raises:
        ModelError: the model cannot be used.
        BackendError: no candidate that ``wish`` allows can be timed here.
    """
    bundle = load_bundle(model)
    alone = _alone(bundle, wish)
    fastest = min(alone.values())
    rows = []
    with tempfile.TemporaryDirectory(prefix="fusematte-") as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip)
        for (spec, threads), ms in alone.items():
            row = Row(spec=spec, threads=threads, alone=ms)
            if ms <= HOPELESS * fastest:
                row = _at_work(row, model, clip)
            rows.append(row)
            tell(row, len(alone))
    costs: dict[Work, dict[tuple[Spec, int], float]] = {
        "file": {(r.spec, r.threads): 1e3 / r.fps for r in rows if r.fps},
        "live": {(r.spec, r.threads): r.latency for r in rows if r.latency},
    }
    return {work: _keep(bundle, wish, work, found) for work, found in costs.items()}


def _alone(bundle: Bundle, wish: Spec) -> dict[tuple[Spec, int], float]:
    """Milliseconds of each candidate and number of threads; logs candidates that cannot run."""
    kinds = [kind for kind in BACKENDS.values() if kind.tunable and not kind.unavailable()]
    found = candidates(kinds, wish, bundle, thorough=True)
    size = bundle.only_size or bundle.default_size
    times: dict[tuple[Spec, int], float] = {}
    for threads in thread_counts(processors()):
        made: dict[Spec, Backend] = {}
        for spec in found:
            try:
                made[spec] = create_backend(spec, bundle, threads=threads)
            except BackendError as error:
                log.warning("backend %s is not used: %s", spec, error)
        if made:
            for spec, ms in time_in_turns(made, size).items():
                times[spec, threads] = ms
        for backend in made.values():
            backend.close()
    if not times:
        raise BackendError(f"no backend can be timed for {wish}; fusematte doctor says why")
    return times


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 ... and ``most``."""
    return sorted({1 << power for power in range(most.bit_length()) if 1 << power <= most} | {most})


def _at_work(row: Row, model: str, clip: Path) -> Row:
    spec, threads = str(row.spec), row.threads
    output = clip.with_name("out.mp4")
    report = run_once(clip, output, JobOptions(model=model, backend=spec, threads=threads))
    latency = _live(clip, model, spec, threads)
    return Row(spec=row.spec, threads=threads, alone=row.alone, fps=report.rate, latency=latency)


def _live(clip: Path, model: str, spec: str, threads: int) -> float:
    """The 99th percentile of the latency, in ms."""
    latencies: list[float] = []
    with ExitStack() as stack:
        session = stack.enter_context(
            Session(
                "green",
                model=model,
                backend=spec,
                threads=threads,
                on_result=lambda result: latencies.append(1e3 * result.latency),
            )
        )
        reader = stack.enter_context(Reader(clip))
        begun = time.perf_counter()
        for number, frame in enumerate(reader):
            due = begun + number / RATE
            if number / RATE > LIVE_SECONDS:
                break
            time.sleep(max(0.0, due - time.perf_counter()))
            session.push(frame)
        while session.busy:
            time.sleep(0.01)
    warm = latencies[RATE // 2 :] or latencies
    return float(np.percentile(warm, 99))


def _keep(bundle: Bundle, wish: Spec, work: Work, costs: dict[tuple[Spec, int], float]) -> Tuning:
    order = sorted(costs.items(), key=lambda item: item[1])
    best: dict[Spec, tuple[int, float]] = {}
    for (spec, threads), ms in order:
        best.setdefault(spec, (threads, ms))
    first = ranked({spec: ms for spec, (_, ms) in best.items()})
    timings = tuple(
        Timing(spec=str(spec), threads=best[spec][0], ms=round(ms, 2)) for spec, ms in first
    )
    tuning = Tuning(timings=timings, thorough=True)
    keep(tuning_key(bundle, wish, work=work), tuning)
    return tuning


def write_clip(path: Path) -> None:
    """Moving shapes, H.264, 1280x720 at 30 frames a second."""
    source = f"testsrc2=size={WIDTH}x{HEIGHT}:rate={RATE}"
    with av.open(source, format="lavfi") as shapes, av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, frame in enumerate(shapes.decode(video=0)):
            if number == FILE_FRAMES:
                break
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
