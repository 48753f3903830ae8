"""What a warm-up leaves of the difference between a stretch and the whole video.

    python benchmarks/bench_warmup.py [--clips FOLDER] [--frames 240]

Of each clip the whole is matted, then again from several places on after a warm-up of so many
frames.  Writes benchmarks/results/warmup.json: for each length of warm-up the mean absolute
difference of alpha (in values of 255) over the 30 frames after it: median, 95th percentile and
worst over all places, and the share of places where it is at most one value.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np
from bench_job import SOURCE
from machine import machine

from fusematte.engine.frame import Frame
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.reader import Reader

RESULTS = Path(__file__).parent / "results" / "warmup.json"
WARM_UPS = (0, 8, 16, 32, 64)
AFTER = 30


def differences(frames: list[Frame], matter: Matter, step: int) -> dict[int, list[float]]:
    """For each warm-up and places ``step`` apart: mean |alpha - alpha of the whole| after it."""
    matter.reset()
    whole = [matter(frame).alpha for frame in frames]
    found: dict[int, list[float]] = {warm_up: [] for warm_up in WARM_UPS}
    for begin in range(max(WARM_UPS), len(frames) - AFTER, step):
        end = begin + AFTER
        for warm_up, values in found.items():
            matter.reset()
            late = [matter(frame).alpha for frame in frames[begin - warm_up : end]][warm_up:]
            both = zip(late, whole[begin:end], strict=True)
            values.append(255 * float(np.mean([np.abs(a - b).mean() for a, b in both])))
    return found


def summarise(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile, worst, and the share of at most one value."""
    median, high = np.percentile(values, [50, 95])
    return {
        "median": round(float(median), 3),
        "p95": round(float(high), 3),
        "worst": round(max(values), 3),
        "share_within_one": round(float(np.mean(np.array(values) <= 1)), 3),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, default=SOURCE.parent, help="a folder of videos")
    parser.add_argument("--frames", type=int, default=240, help="of each clip")
    parser.add_argument("--step", type=int, default=40, help="frames between two places")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    values: dict[int, list[float]] = {warm_up: [] for warm_up in WARM_UPS}
    clips = sorted(args.clips.glob("*.mp4"))
    with Matter() as matter:
        for clip in clips:
            with Reader(clip) as reader:
                frames = list(islice(reader, args.frames))
            for warm_up, found in differences(frames, matter, args.step).items():
                values[warm_up] += found
            print(clip.name, {w: len(v) for w, v in values.items()}, flush=True)
    if not values[0]:
        raise SystemExit(f"{args.clips}: no clip has more than {max(WARM_UPS) + AFTER} frames")
    results = {
        "machine": machine(),
        "clips": len(clips),
        "places": len(values[0]),
        "warm_ups": {str(warm_up): summarise(found) for warm_up, found in values.items()},
    }
    args.results.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results["warm_ups"]))


if __name__ == "__main__":
    main()
