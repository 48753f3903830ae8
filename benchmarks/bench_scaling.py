"""Segments side by side: what --jobs gains on this machine, and by simulation on larger ones.

    python benchmarks/bench_scaling.py [--clip CLIP] [--size 1280x720] [--frames 1200] [--repeats 3]

The same video is done with 1, 2 and 4 jobs in turns, after plain decode + encode of it, with
segments of a quarter of the frames.  For 8 and 32 processors the time is simulated from what was
measured: a process starts once, then works on a segment and its warm-up with the processor time
that a frame takes here, one processor each; the parts are joined by one.  What processors share
(memory, caches, the disk) is not simulated.  Writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench_job import SOURCE, transcode
from long_clip import make_long_clip
from machine import machine
from timing import wall_and_processor

from fusematte.engine.jobs import segmented
from fusematte.engine.jobs.run import run
from fusematte.engine.media import segments

RESULTS = Path(__file__).parent / "results" / "scaling.json"
JOBS = (1, 2, 4)
PROCESSORS = (1, 2, 4, 8, 32)
FILM = 40
"""Segments of the simulated video: 24,000 frames, a quarter of an hour."""


def _timed_joins() -> list[float]:
    """A list that gets the seconds of every join from now on."""
    seconds, join = [], segmented.join

    def timed(*arguments: Any) -> int:  # noqa: ANN401
        begun = time.perf_counter()
        count = join(*arguments)
        seconds.append(time.perf_counter() - begun)
        return count

    segmented.join = timed  # type: ignore[attr-defined]
    return seconds


def simulate(processors: int, *, start: float, frame: float, join: float) -> float:
    """Seconds for ``FILM`` segments with one process for each processor.

    start: of a process; frame: processor seconds of a frame; join: seconds of a segment's.
    """
    rounds = math.ceil(FILM / processors)
    segment = frame * (segments.FRAMES + segments.WARM_UP)
    return start + rounds * segment + FILM * join


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SOURCE, help="a video of people")
    parser.add_argument("--size", default="1280x720", metavar="WxH")
    parser.add_argument("--frames", type=int, default=1200)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    full, segments.FRAMES = segments.FRAMES, args.frames // 4
    seconds: dict[str, list[tuple[float, float]]] = {"plain": []}
    with tempfile.TemporaryDirectory() as folder:
        clip, output = Path(folder, "clip.mp4"), Path(folder, "out.mp4")
        key_frames, rate = segments.FRAMES, 30
        make_long_clip(
            args.clip,
            clip,
            args.frames / rate,
            size=(width, height),
            rate=rate,
            key_frames=key_frames,
        )
        run(clip, output)  # tunes, and fills the caches
        joins = _timed_joins()
        for _ in range(args.repeats):
            seconds["plain"].append(wall_and_processor(lambda: transcode(clip, output)))
            for jobs in JOBS:
                took = wall_and_processor(partial(run, clip, output, jobs=jobs))
                seconds.setdefault(f"{jobs} jobs", []).append(took)
                print(jobs, took, flush=True)
    segments.FRAMES = full
    wall = {name: median(one for one, _ in times) for name, times in seconds.items()}
    used = {name: median(one for _, one in times) for name, times in seconds.items()}
    costs = {
        "start": max(0.0, used["4 jobs"] - used["2 jobs"]) / 2,
        "frame": used["1 jobs"] / args.frames,
        "join": median(joins) / 4,
    }
    results: dict[str, Any] = {
        "machine": machine(),
        "clip": args.clip.stem,
        "size": args.size,
        "frames": args.frames,
        "wall_s": {name: round(value, 2) for name, value in wall.items()},
        "processor_s": {name: round(value, 2) for name, value in used.items()},
        "ratio_to_plain": {
            name: round(
                median(p[0] / t[0] for p, t in zip(seconds["plain"], times, strict=True)), 3
            )
            for name, times in seconds.items()
        },
        "simulated_frames": FILM * full,
        "simulated_speedup": {
            count: round(simulate(1, **costs) / simulate(count, **costs), 1) for count in PROCESSORS
        },
        "simulated_from": {name: round(value, 4) for name, value in costs.items()},
    }
    print(json.dumps(results, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
