"""Training speed in samples per second: ``python benchmarks/bench_training.py``.

For each picture size: how fast samples are made, how fast the network learns from ready ones, and
both together, as a run does it.  The material is made here: pictures of the size the trainer keeps.
Rounds of all three take turns; medians are reported.  Writes benchmarks/results/training.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import machine
from torch.utils.data import DataLoader

from fusematte.engine.pipeline import Pipeline
from fusematte.training.augment import Picture
from fusematte.training.config import Phase, TrainConfig
from fusematte.training.data import Batches, SampleStream
from fusematte.training.samples import Portrait
from fusematte.training.train import Run

RESULTS = Path(__file__).parent / "results" / "training.json"
SIZES = {128: 64, 192: 24, 256: 16, 352: 8}
"""Side of the pictures: batch."""
WARM = 2
"""Steps before the clock starts."""


def material(size: int, count: int = 64) -> tuple[list[Portrait], list[Picture]]:
    """Portraits and rooms of noise: what they show does not matter to the speed."""
    rng = np.random.default_rng(0)
    side = size * 3 // 2

    def noise(*shape: int) -> Picture:
        return rng.integers(0, 256, shape, np.uint8)

    portraits = [
        Portrait(str(i), noise(side, side, 3), noise(side, side, 3), noise(side, side), None)
        for i in range(count)
    ]
    return portraits, [noise(side, side, 3) for _ in range(count)]


class Bench:
    """One network at one size, ready to be timed again and again."""

    def __init__(self, network: str, size: int, batch: int) -> None:
        self.phase = Phase((size,), batch, steps=10**6)
        config = TrainConfig(network, (self.phase,))
        self.run = Run(config)
        self.run.plan = config.plan(1, 1)
        self.run.begin(self.phase)
        self.stream = SampleStream(*material(size), self.phase)

    def batches(self, steps: int) -> DataLoader[dict[str, torch.Tensor]]:
        """As many as WARM and so many steps take."""
        numbers = Batches(
            0, WARM + steps, batch=self.phase.batch, accumulate=1, rank=0, processes=1
        )
        return DataLoader(self.stream, batch_sampler=numbers)

    def load(self, steps: int) -> float:
        """Samples per second that the loader makes by itself."""
        begun = time.perf_counter()
        count = sum(len(batch["image"]) for batch in self.batches(steps))
        return count / (time.perf_counter() - begun)

    def learn(self, steps: int) -> float:
        """Samples per second that the network learns from when they are ready."""
        batch = next(iter(self.batches(1)))
        return self._time(steps, [batch] * (WARM + steps))

    def together(self, steps: int) -> float:
        """Samples per second of a run."""
        with Pipeline(("load", self.batches(steps))) as batches:
            return self._time(steps, batches)

    def _time(self, steps: int, batches: Any) -> float:  # noqa: ANN401
        begun = 0.0
        for index, batch in enumerate(batches):
            if index == WARM:
                begun = time.perf_counter()
            self.run.train_step([batch])
        return steps * self.phase.batch / (time.perf_counter() - begun)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="edge")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size in args.sizes:
        bench = Bench(args.network, size, SIZES[size])
        timed: dict[str, list[float]] = {}
        ways = {"load": bench.load, "learn": bench.learn, "run": bench.together}
        for _ in range(args.rounds):
            for name, way in ways.items():
                timed.setdefault(name, []).append(way(args.steps))
        rates = {name: round(median(values), 1) for name, values in timed.items()}
        rows.append({"size": size, "batch": SIZES[size], **rates})
        print(rows[-1], flush=True)
    args.output.parent.mkdir(exist_ok=True)
    results = {"machine": machine(), "network": args.network, "samples_per_second": rows}
    args.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
