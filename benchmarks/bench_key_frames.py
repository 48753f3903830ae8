"""What it costs in accuracy that the network mattes some frames only, and what it saves.

    python benchmarks/bench_key_frames.py --data DIR [--clips 10] [--frames 60] [--videos FILE ...]

Clips with true alpha are composed as for ``fusematte evaluate`` and matted with ``--network-every``
1 (every frame), 4, 8 and 16, through the engine.  ``calls``: runs of the network per frame.  Of the
videos, which have no true alpha, ``difference`` is the mean absolute difference of alpha (at the
network's resolution) from that of every frame, and ``change`` the mean change of the latter from
frame to frame, both times a thousand.  Writes benchmarks/results/key_frames.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from bench_true_alpha import load_scenes
from machine import machine

from fusematte.engine.backends import Maps
from fusematte.engine.frame import Frame, Map
from fusematte.engine.matting.key_frames import KeyFrames, Made
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import refine
from fusematte.engine.media.reader import Reader
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.training.metrics import dtssd

RESULTS = Path(__file__).parent / "results" / "key_frames.json"
EVERY = (1, 4, 8, 16)


class CountingMatter(Matter):
    """Counts how often the network runs."""

    calls = 0

    def infer(self, image: Map, previous: Map) -> Maps:
        """See ``Matter``."""
        self.calls += 1
        return super().infer(image, previous)


def matted(matter: CountingMatter, frames: list[Frame], every: int) -> tuple[list[Made], float]:
    """The frames with their mattes, and the network's runs per frame."""
    matter.reset()
    matter.calls, key_frames = 0, KeyFrames(every)
    made = [one for frame in frames for one in key_frames(matter, frame)]
    return [*made, *key_frames.drain(matter)], matter.calls / len(frames)


def score(matter: CountingMatter, clip: list[tuple[Any, Any]], every: int) -> dict[str, float]:
    """The errors in a clip with true alpha."""
    made, calls = matted(matter, [frame_from_rgb(picture) for picture, _ in clip], every)
    alphas = [np.asarray(refine(frame, matte) / 255) for frame, matte, _ in made]
    truths = [truth / 255 for _, truth in clip]
    mse = np.mean([np.square(a - t).mean() for a, t in zip(alphas, truths, strict=True)])
    return {"mse": float(mse), "dtssd": dtssd(alphas, truths), "calls": calls}


def compare(matter: CountingMatter, video: Path, count: int) -> dict[str, Any]:
    """The differences in the first frames of a video."""
    with Reader(video) as reader:
        frames = list(itertools.islice(reader, count))
    alphas, calls = {}, {}
    for every in EVERY:
        made, calls[every] = matted(matter, frames, every)
        alphas[every] = np.stack([one.matte.alpha for one in made])
    whole = alphas[EVERY[0]]
    return {"change": round(1000 * float(np.abs(np.diff(whole, axis=0)).mean()), 2)} | {
        str(every): {
            "calls": round(calls[every], 2),
            "difference": round(1000 * float(np.abs(alphas[every] - whole).mean()), 2),
        }
        for every in EVERY[1:]
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--videos", type=Path, nargs="*", default=[])
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    scenes = load_scenes(args.data)
    with CountingMatter(backend=args.backend) as matter:
        rows: dict[int, list[dict[str, float]]] = {every: [] for every in EVERY}
        for clip in scenes.clips(args.clips, args.frames):
            for every in EVERY:
                rows[every].append(score(matter, clip, every))
        results = {
            "machine": machine(),
            "model": f"{matter.bundle.name} {matter.bundle.version}",
            "clips": args.clips,
            "frames": args.frames,
            "true_alpha": {
                str(every): {
                    name: round(float(np.mean([row[name] for row in scored])), 5)
                    for name in scored[0]
                }
                for every, scored in rows.items()
            },
            "videos": {video.stem: compare(matter, video, args.frames) for video in args.videos},
        }
    print(json.dumps(results, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
