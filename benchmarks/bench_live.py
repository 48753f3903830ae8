"""Live matting of a paced 720p30 source for minutes, alone and beside a process that takes a core.

    python benchmarks/bench_live.py [--minutes 10] [--budget-ms 33.3]

Three parts, each a process of its own: alone; beside a process that keeps a core busy; and a tenth
as long the same without a budget.  The source, one long file of a clip forwards and backwards
without a cut, is pushed into a Session at its own pace.  Writes benchmarks/results/live.json:
latency p50, p95 and p99 from push to result, dropped frames (all, and after the first seconds),
resident memory at the start and the end, the share of the processor, which network sizes the
governor chose for how long, whether frames carried its mattes, and whether their threads came
before others (engine.urgency).  The first seconds, in which the network is compiled, are left out
of the steady figures.  What sizes and carrying cost in accuracy is in bench_carried.py.

For users without that right, as root:

    setpriv --bounding-set=-sys_nice --inh-caps=-sys_nice \\
        python benchmarks/bench_live.py --output benchmarks/results/live-ordinary.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from av.video.frame import PictureType
from bench_job import SOURCE
from machine import machine

from fusematte.engine.live.meter import LiveStatistics
from fusematte.engine.live.session import Result, Session
from fusematte.engine.media.reader import Reader
from fusematte.engine.urgency import may_be_urgent

RESULTS = Path(__file__).parent / "results" / "live.json"
SIZE, RATE, FRAMES = (1280, 720), 30, 150
WARM_UP = 10.0
"""Seconds that are left out of the steady figures."""


def make_clip(source: Path, target: Path, minutes: float) -> None:
    """``source``'s first frames there and back, so many minutes of it, as H.264 of the benchmark's
    size.  One file: readers that are opened again and again would cost memory of their own."""
    with av.open(str(source)) as container:
        there = [
            frame.reformat(*SIZE, format="yuv420p")
            for frame in itertools.islice(container.decode(video=0), FRAMES)
        ]
    swinging = itertools.cycle([*there, *reversed(there)])
    with av.open(str(target), "w") as output:
        stream = output.add_stream(
            "libx264", rate=RATE, options={"preset": "ultrafast", "crf": "20"}
        )
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index, frame in enumerate(itertools.islice(swinging, round(60 * RATE * minutes))):
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            frame.pict_type = PictureType.NONE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def take_a_core(stop: Event) -> None:
    """Computes until told to stop; in Python, for NumPy would take every core."""
    while not stop.is_set():
        sum(range(10_000))


class Collector:
    """Notes what each result cost; called by the session.

    begun: when the first frame was pushed.
    """

    def __init__(self) -> None:
        self.begun = 0.0
        self.results: list[tuple[float, float, bool]] = []

    def __call__(self, result: Result) -> None:
        now = time.perf_counter() - self.begun
        self.results.append((now, 1e3 * result.latency, result.error is not None))


def run_paced(clip: Path, minutes: float, budget: float | None, background: str) -> dict[str, Any]:
    """Pushes the clip for so many minutes; the figures."""
    process, sizes, count = psutil.Process(), Counter[str](), round(60 * RATE * minutes)
    resident: list[float] = []
    in_first_second = 0
    first: LiveStatistics | None = None
    with (
        Reader(clip) as frames,
        Session(background, budget_ms=budget, on_result=(collector := Collector())) as session,
    ):
        process.cpu_percent()
        collector.begun = time.perf_counter()
        for index, frame in enumerate(itertools.islice(frames, count)):
            time.sleep(max(0.0, collector.begun + index / RATE - time.perf_counter()))
            session.push(replace(frame, pts=index, time_base=Fraction(1, RATE)))
            if index == RATE:
                in_first_second = session.statistics.dropped
            if index % RATE == 0 and index > RATE * WARM_UP:
                now = session.statistics
                first = first or now
                sizes[name_of(now)] += 1
                resident.append(process.memory_info().rss / 1e6)
        cpu = process.cpu_percent()
        while session.busy:
            time.sleep(0.01)
        statistics = session.statistics
    assert first is not None
    return summarise(collector, count, budget) | {
        "dropped_after_a_second": statistics.dropped - in_first_second,
        "dropped_later": statistics.dropped - first.dropped,
        "budget_ms": budget,
        "governor_changes": statistics.level_changes,
        "governor_last_change": statistics.last_change,
        "seconds_at_size": dict(sizes.most_common()),
        "processor_share": round(cpu / 100 / (os.cpu_count() or 1), 3),
        "resident_mb_start": round(resident[0]),
        "resident_mb_end": round(resident[-1]),
        "resident_mb_most": round(max(resident)),
    }


def name_of(statistics: LiveStatistics) -> str:
    """How the network runs: ``WxH``, or ``WxH carried``."""
    height, width = statistics.network_size
    return f"{width}x{height}{' carried' if statistics.carried else ''}"


def summarise(collector: Collector, pushed: int, budget: float | None) -> dict[str, Any]:
    """Latency percentiles, over all and over the steady part, and what was dropped."""
    everything = [latency for _, latency, _ in collector.results]
    steady = [latency for at, latency, _ in collector.results if at > WARM_UP] or everything
    late = np.mean([latency > (budget or np.inf) for latency in steady])
    return {
        "seconds": round(time.perf_counter() - collector.begun, 1),
        "pushed": pushed,
        "results": len(everything),
        "dropped": pushed - len(everything),
        "failed": sum(failed for _, _, failed in collector.results),
        "latency_ms": percentiles(steady),
        "share_over_budget": round(float(late), 4),
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
    parser.add_argument("--budget-ms", type=float, default=1000 / RATE)
    parser.add_argument("--background", default="blur")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if 60 * args.minutes <= WARM_UP + 2:
        parser.error(f"--minutes: more than {(WARM_UP + 2) / 60:g}: so long is the warm-up")
    results: dict[str, Any] = {
        "machine": machine(), "size": "x".join(map(str, SIZE)), "rate": RATE,
        "urgent": may_be_urgent(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        make_clip(args.clip, clip, args.minutes)
        minutes, budget, background = args.minutes, args.budget_ms, args.background
        short = max(minutes / 10, min(minutes, 0.4))
        results["alone"] = in_a_process(clip, minutes, budget, background)
        results["loaded"] = in_a_process(clip, minutes, budget, background, busy=1)
        results["loaded_ungoverned"] = in_a_process(clip, short, None, background, busy=1)
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
