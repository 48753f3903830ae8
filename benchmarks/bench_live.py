"""Live matting of a paced 720p30 source for minutes, alone and beside a process that takes a core.

    python benchmarks/bench_live.py [--minutes 10] [--loaded-minutes 3] [--budget-ms 50]

Each part is a process of its own: the source, a clip over and over, is pushed into a Session at
its own pace.  Writes benchmarks/results/live.json: latency p50, p95 and p99 from push to result,
dropped frames, resident memory at the start and the end, the share of the processor, and which
network sizes the governor chose how often.  Latencies over the whole time and after the first
seconds, in which the network is compiled, are told apart.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from bench_job import SOURCE, make_clip
from machine import machine

from fusematte.engine.decode import Reader
from fusematte.engine.frame import Frame
from fusematte.engine.session import Result, Session

RESULTS = Path(__file__).parent / "results" / "live.json"
RATE, FRAMES = 30, 150
WARM_UP = 10.0
"""Seconds that are left out of the steady figures."""


def frames_of(clip: Path) -> Iterator[Frame]:
    """The clip's frames, decoded as they are wanted, without end."""
    while True:
        with closing(Reader(clip)) as reader:
            yield from reader


def take_a_core(stop: Event) -> None:
    """Computes until told to stop."""
    values = np.random.default_rng(0).random((256, 256))
    while not stop.is_set():
        values = np.tanh(values @ values / 256)


class Collector:
    """Notes what each result cost; called by the session."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.results: list[tuple[float, float, bool]] = []

    def __call__(self, result: Result) -> None:
        now = time.perf_counter() - self.begun
        self.results.append((now, 1e3 * result.latency, result.error is not None))


def run_paced(clip: Path, minutes: float, budget: float | None, background: str) -> dict[str, Any]:
    """Pushes the clip for so many minutes; the figures."""
    process, collector, sizes = psutil.Process(), Collector(), Counter[str]()
    with Session(background, budget_ms=budget, on_result=collector) as session:
        resident, pushed = [], 0
        process.cpu_percent()
        for pushed, frame in enumerate(frames_of(clip), start=1):
            due = collector.begun + pushed / RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            if due - collector.begun > 60 * minutes:
                break
            session.push(frame, pts=pushed)
            if pushed % RATE == 0:
                sizes["x".join(map(str, reversed(session.statistics.network_size)))] += 1
                if due - collector.begun > WARM_UP:
                    resident.append(process.memory_info().rss / 1e6)
        cpu = process.cpu_percent()
        statistics = session.statistics
    return summarise(collector, pushed) | {
        "budget_ms": budget,
        "governor_changes": statistics.level_changes,
        "seconds_at_size": dict(sizes.most_common()),
        "processor_share": round(cpu / 100 / (os.cpu_count() or 1), 3),
        "resident_mb_start": round(resident[0]) if resident else None,
        "resident_mb_end": round(resident[-1]) if resident else None,
    }


def summarise(collector: Collector, pushed: int) -> dict[str, Any]:
    """Latency percentiles, over all and over the steady part, and what was dropped."""
    everything = [latency for _, latency, _ in collector.results]
    steady = [latency for at, latency, _ in collector.results if at > WARM_UP]
    return {
        "seconds": round(time.perf_counter() - collector.begun, 1),
        "pushed": pushed,
        "results": len(everything),
        "dropped": pushed - len(everything),
        "failed": sum(failed for _, _, failed in collector.results),
        "latency_ms": percentiles(steady or everything),
        "latency_ms_from_the_start": percentiles(everything),
    }


def percentiles(latencies: list[float]) -> dict[str, float]:
    """p50, p95, p99 and the worst."""
    values = np.percentile(latencies, (50, 95, 99, 100))
    return dict(
        zip(("p50", "p95", "p99", "worst"), (round(float(v), 1) for v in values), strict=True)
    )


def in_a_process(*arguments: Any, busy: int = 0) -> dict[str, Any]:  # noqa: ANN401
    """``run_paced`` by itself, or beside ``busy`` processes that each keep a core busy."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    others = [context.Process(target=take_a_core, args=(stop,)) for _ in range(busy)]
    for other in others:
        other.start()
    try:
        with context.Pool(1) as pool:
            figures: dict[str, Any] = pool.apply(run_paced, arguments)
            return figures
    finally:
        stop.set()
        for other in others:
            other.join()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SOURCE, help="a video of people")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--loaded-minutes", type=float, default=3)
    parser.add_argument("--budget-ms", type=float, default=1000 / RATE)
    parser.add_argument("--background", default="blur")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "size": "1280x720", "rate": RATE}
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        make_clip(args.clip, clip, 1280, 720, FRAMES)
        budget, background = args.budget_ms, args.background
        results["alone"] = in_a_process(clip, args.minutes, budget, background)
        loaded = args.loaded_minutes
        results["loaded"] = in_a_process(clip, loaded, budget, background, busy=1)
        results["loaded_ungoverned"] = in_a_process(clip, loaded, None, background, busy=1)
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
