"""Training speed in samples per second: ``python benchmarks/bench_training.py``.

For each picture size: how fast samples are made, how fast the network learns from ready ones (and
would, if PyTorch computed the gradients of its depthwise convolutions, and if the C library gave
memory back after each step), and both together, as a run does it.  The material is made here:
pictures of the size the trainer keeps.  Rounds take turns; medians are reported.  How memory is
kept cannot be changed back, so the ways without that come first, for all sizes.
Writes benchmarks/results/training.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import machine
from torch import nn
from torch.utils.data import DataLoader

from fusematte.engine.pipeline import Pipeline
from fusematte.training.composer import Composer
from fusematte.training.config import Phase, TrainConfig
from fusematte.training.data import Batches, SampleStream
from fusematte.training.depthwise import DepthwiseConv2d
from fusematte.training.geometry import Picture
from fusematte.training.memory import keep_freed_memory
from fusematte.training.samples import Portrait
from fusematte.training.train import Run

RESULTS = Path(__file__).parent / "results" / "training.json"
SIZES = {128: 64, 192: 24, 256: 16, 352: 8}
"""Side of the pictures: batch."""
WARM = 2
"""Steps before the clock starts."""


def material(size: int, count: int = 64) -> tuple[list[Portrait], Composer]:
    """Portraits and rooms of noise: what they show does not matter to the speed."""
    rng = np.random.default_rng(0)
    side = size * 3 // 2

    def noise(*shape: int) -> Picture:
        return rng.integers(0, 256, shape, np.uint8)

    portraits = [
        Portrait(str(i), noise(side, side, 3), noise(side, side, 3), noise(side, side), None)
        for i in range(count)
    ]
    return portraits, Composer([noise(side, side, 3) for _ in range(count)])


def make_plain(network: nn.Module) -> None:
    """Puts ordinary convolutions in the place of those with gradients of their own."""
    for name, module in list(network.named_modules()):
        if isinstance(module, DepthwiseConv2d):
            size, stride = module.kernel_size[0], module.stride[0]
            plain = nn.Conv2d(
                module.in_channels,
                module.out_channels,
                size,
                stride,
                size // 2,
                groups=module.groups,
                bias=False,
            )
            network.set_submodule(name, plain.to(memory_format=torch.channels_last))


class Bench:
    """One network at one size, ready to be timed again and again."""

    def __init__(self, network: str, size: int, batch: int) -> None:
        self.phase = Phase((size,), batch, steps=10**6)
        config = TrainConfig(network, (self.phase,))
        self.run, self.plain = Run(config), Run(config)
        make_plain(self.plain.network)
        for run in (self.run, self.plain):
            run.plan = config.plan(1, 1)
            run.begin(self.phase)
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
        return self._learn(self.run, steps)

    def learn_plainly(self, steps: int) -> float:
        """The same with ordinary depthwise convolutions."""
        return self._learn(self.plain, steps)

    def _learn(self, run: Run, steps: int) -> float:
        batch = next(iter(self.batches(1)))
        return self._time(run, steps, [batch] * (WARM + steps))

    def together(self, steps: int) -> float:
        """Samples per second of a run."""
        with Pipeline(("load", self.batches(steps))) as batches:
            return self._time(self.run, steps, batches)

    def _time(self, run: Run, steps: int, batches: Any) -> float:  # noqa: ANN401
        begun = 0.0
        for index, batch in enumerate(batches):
            if index == WARM:
                begun = time.perf_counter()
            run.train_step([batch])
        return steps * self.phase.batch / (time.perf_counter() - begun)


def measure(ways: dict[str, Callable[[int], float]], steps: int, rounds: int) -> dict[str, float]:
    """Samples per second of each way: the median of rounds in which they take turns."""
    timed: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            timed[name].append(way(steps))
    return {name: round(median(rates), 1) for name, rates in timed.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="edge")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    benches = {size: Bench(args.network, size, SIZES[size]) for size in args.sizes}
    rows = {size: {"size": size, "batch": SIZES[size]} for size in benches}
    for size, bench in benches.items():
        ways = {"load": bench.load, "returned": bench.learn}
        rows[size] |= measure(ways, args.steps, args.rounds)
    keep_freed_memory()
    for size, bench in benches.items():
        ways = {"learn": bench.learn, "plain": bench.learn_plainly, "run": bench.together}
        rows[size] |= measure(ways, args.steps, args.rounds)
        print(rows[size], flush=True)
    args.output.parent.mkdir(exist_ok=True)
    results = {"machine": machine(), "network": args.network}
    results["samples_per_second"] = list(rows.values())
    args.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
