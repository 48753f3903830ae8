"""End-to-end latency of a live session fed like a camera: a frame every 1/30 s, newest wins.

    python benchmarks/bench_latency.py [--clip CLIP] [--size 1280x720] [--seconds 60]

Pictures are decoded beforehand and pushed at their due times into the product's own ``Session``,
as ``fusematte live`` sets it up: the budget is one frame, so that the network shrinks where it
would not be held; one frame waits, and a newer one takes its place.  Latency runs from the push
(the frame is available) to the result (the composite is available).  The first seconds, in which
the network is compiled, do not count.  Writes benchmarks/results/latency.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from bench_job import SOURCE, make_clip
from machine import machine

from fusematte.engine.frame import Frame
from fusematte.engine.live.session import Result, Session
from fusematte.engine.media.reader import Reader

RESULTS = Path(__file__).parent / "results" / "latency.json"
RATE = 30
WARM_UP = 10
"""Seconds before the first frame that counts: the network is compiled, the memory is there."""


def pictures(source: Path, width: int, height: int, count: int) -> list[Frame]:
    """``count`` decoded frames of a real clip at this size."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        make_clip(source, clip, width, height, count)
        with Reader(clip) as reader:
            return list(reader)


def measure(
    frames: list[Frame], seconds: float, background: str, threads: int | None
) -> dict[str, Any]:
    """Pushes the frames round and round in real time."""
    latency: list[float] = []
    sizes: Counter[str] = Counter()
    count = round(seconds * RATE)

    def note(result: Result) -> None:
        latency.append(1e3 * result.latency)
        if result.matte is not None:
            height, width = result.matte.alpha.shape
            sizes[f"{width}x{height}"] += 1

    endless = cycle(frames)
    with Session(background, threads=threads, budget_ms=1e3 / RATE, on_result=note) as session:
        push_paced(session, endless, WARM_UP * RATE)
        latency.clear()
        sizes.clear()
        before = session.statistics
        late = push_paced(session, endless, count)
        statistics = session.statistics
    if statistics.failed:
        raise SystemExit(f"{statistics.failed} frames failed: {statistics.error}")
    return {
        "frames": count,
        "composites": len(latency),
        "dropped": statistics.dropped - before.dropped,
        "budget_ms": round(1e3 / RATE, 1),
        "over_budget": sum(ms > 1e3 / RATE for ms in latency),
        "frames_at_network_size": dict(sizes.most_common()),
        "level_changes": statistics.level_changes - before.level_changes,
        "latency_ms": {f"p{q}": round(float(np.percentile(latency, q)), 1) for q in (50, 95, 99)},
        "longest_ms": round(max(latency), 1),
        "stage_ms": {name: round(ms, 1) for name, ms in statistics.stages.items()},
        "pushed_late_ms_p99": round(1e3 * float(np.percentile(late, 99)), 2),
    }


def push_paced(session: Session, frames: Iterator[Frame], count: int) -> list[float]:
    """Pushes ``count`` frames at their times, waits for the last; how late each was pushed, s."""
    late = []
    begun = time.perf_counter()
    for index, frame in zip(range(count), frames, strict=False):
        due = begun + index / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        late.append(time.perf_counter() - due)
        session.push(frame)
    while session.busy:
        time.sleep(0.001)
    return late


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clip", type=Path, default=SOURCE, help="a video of people")
    parser.add_argument("--size", default="1280x720", metavar="WxH")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--background", default="blur")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    frames = pictures(args.clip, width, height, 150)
    results = {
        "machine": machine(),
        "size": args.size,
        "rate": RATE,
        "seconds": args.seconds,
        "background": args.background,
        **measure(frames, args.seconds, args.background, args.threads),
    }
    text = json.dumps(results, indent=2) + "\n"
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(text, "utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
