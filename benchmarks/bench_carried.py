"""What carried mattes cost in accuracy, beside a smaller network that is not waited for.

    python benchmarks/bench_carried.py --data DIR [--clips 8] [--frames 30]

Clips with true alpha are composed as for ``fusematte evaluate`` and matted as live sessions do:
each frame by the network (``now``), or by ``matting.carried`` with a network that takes 1, 2, 3 or
4 frames and then rests for as many.  Writes benchmarks/results/carried.json: mean squared error
and dtSSD by the factor on the network's area.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_true_alpha import load_scenes
from machine import machine

from fusematte.engine.frame import Frame, Matte
from fusematte.engine.live.session import SCALES
from fusematte.engine.matting.key_frames import Known, motion_between, moved_matte
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import refine
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.training.metrics import dtssd

RESULTS = Path(__file__).parent / "results" / "carried.json"
DELAYS = (1, 2, 3, 4)
"""Frames that the network takes."""


def carried(matter: Matter, frames: list[Frame], delay: int) -> list[Matte]:
    """What ``Carried`` makes of a video whose network takes so many frames for each matte."""
    key = begun = Known(matter.see(frames[0]))
    key.matte = matter.matte(key.seen)
    mattes = [key.matte]
    for index, frame in enumerate(frames[1:], 1):
        now, phase = Known(matter.see(frame)), index % (2 * delay)
        key = begun if phase == delay else key
        planes = motion_between(now, key)(key.planes)
        if phase == 0:
            now.matte, begun = matter.matte(now.seen, planes[0]), now
        mattes.append(moved_matte(now.seen, key.matte, planes))
    return mattes


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    scores: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with Matter(backend=args.backend) as matter:
        for clip in load_scenes(args.data).clips(args.clips, args.frames):
            frames = [replace(frame_from_rgb(p), pts=i) for i, (p, _) in enumerate(clip)]
            truths = [truth / 255 for _, truth in clip]
            for matter.scale in SCALES:
                for delay in (0, *DELAYS):
                    matter.reset()
                    mattes = carried(matter, frames, delay) if delay else map(matter, frames)
                    pairs = zip(frames, mattes, strict=True)
                    alphas = [np.asarray(refine(frame, matte) / 255) for frame, matte in pairs]
                    mse = np.mean(
                        [np.square(a - t).mean() for a, t in zip(alphas, truths, strict=True)]
                    )
                    way = f"{delay} frames" if delay else "now"
                    row = scores.setdefault(str(matter.scale), {}).setdefault(way, [])
                    row.append((float(mse), dtssd(alphas, truths)))
        results = {
            "machine": machine(),
            "model": f"{matter.bundle.name} {matter.bundle.version} on {matter.backend.spec}",
            "clips": args.clips,
            "frames": args.frames,
            "scales": {
                scale: {
                    way: dict(zip(("mse", "dtssd"), np.mean(row, 0).round(5).tolist(), strict=True))
                    for way, row in ways.items()
                }
                for scale, ways in scores.items()
            },
        }
    print(json.dumps(results, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
