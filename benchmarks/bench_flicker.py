"""Flicker on real clips: the network's alpha, smoothed as in live work, and with a lookahead.

    python benchmarks/bench_flicker.py [--frames 60] [--clips m1 juggle ...]

The measure is dtSSD without a ground truth: the root of the mean squared change of alpha from one
frame to the next over the pixels where the picture stands still (its luma, averaged over 5x5 pixels
of the network, changes by less than 0.01), where alpha ought to stand still as well; times 1000.
Beside it the lag: the mean change that smoothing makes where the picture moves.
Writes benchmarks/results/flicker.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import machine
from numpy.typing import NDArray

from fusematte.engine.frame import Matte
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.smoothing import Lookahead, Smoother
from fusematte.engine.media.reader import Reader

RESULTS = Path(__file__).parent / "results" / "flicker.json"
CLIPS = Path(__file__).parents[2] / "shared" / "clips"
LOOKAHEADS = (1, 2, 4)
STANDS, MOVES = 0.01, 0.03
"""Changes of luma below and above which a pixel stands still or moves."""

Map = NDArray[np.float32]


def mattes_of(clip: Path, matter: Matter, frames: int) -> Iterator[tuple[Matte, bool]]:
    """The network's mattes, and whether each goes on from the one before."""
    matter.reset()
    with Reader(clip) as reader:
        for _, frame in zip(range(frames), reader, strict=False):
            matte = matter(frame)
            yield matte, matter.follows


def changes(mattes: Sequence[Matte]) -> list[Map]:
    """How much the picture changes from each frame to the next, [h, w]."""
    lumas = [matte.color[0] for matte in mattes]
    return [
        np.asarray(cv2.blur(np.abs(later - earlier), (5, 5)), np.float32)
        for earlier, later in pairwise(lumas)
    ]


def flicker(mattes: Sequence[Matte]) -> float:
    """See the module."""
    steps = []
    for (earlier, later), change in zip(pairwise(mattes), changes(mattes), strict=True):
        still = (later.alpha - earlier.alpha)[change < STANDS]
        steps.append(np.sqrt(np.mean(still**2)) if still.size else 0.0)
    return round(1e3 * float(np.mean(steps)), 2)


def lag(raw: Sequence[Matte], smoothed: Sequence[Matte]) -> float:
    """What smoothing changes where the picture moves; 0..1."""
    found = [
        np.abs(after.alpha - before.alpha)[change > MOVES]
        for before, after, change in zip(raw[1:], smoothed[1:], changes(raw), strict=False)
    ]
    return round(float(np.mean(np.concatenate(found))), 5) if any(map(len, found)) else 0.0


def measure(mattes: Sequence[tuple[Matte, bool]]) -> dict[str, Any]:
    """Each way to smooth, on one clip."""
    raw = [matte for matte, _ in mattes]
    ways: dict[str, Smoother | Lookahead] = {"smoothed": Smoother()}
    ways |= {f"lookahead {frames}": Lookahead(frames) for frames in LOOKAHEADS}
    figures: dict[str, Any] = {"raw": {"flicker": flicker(raw), "lag": 0.0}}
    for name, way in ways.items():
        done = [way(matte, follows=follows) for matte, follows in mattes]
        smoothed = [matte for matte in done if matte is not None]
        figures[name] = {"flicker": flicker(smoothed), "lag": lag(raw, smoothed)}
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--clips", nargs="+", default=["d0", "d13", "m1", "juggle", "s13", "s20"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "frames": args.frames, "clips": {}}
    with Matter() as matter:
        for name in args.clips:
            mattes = list(mattes_of(CLIPS / f"{name}.mp4", matter, args.frames))
            results["clips"][name] = measure(mattes)
            print(name, json.dumps(results["clips"][name]), flush=True)
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
