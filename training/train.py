"""The training loop: ``python -m fusematte.training.train --data DIR --output DIR``.

Small pictures first: semantics are cheap to learn at 128 pixels, edges need more.  Checkpoints are
safetensors files with the run's configuration in their header; the stream of samples depends on
the step alone, so a run continues where its checkpoint left it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from fusematte.engine.pipeline import Pipeline
from fusematte.training.data import (
    Picture,
    Portrait,
    SampleStream,
    find_shards,
    load_backgrounds,
    load_portraits,
)
from fusematte.training.losses import joint_loss
from fusematte.training.network import LateFusionNetwork, build_network


@dataclass(frozen=True)
class Phase:
    """``steps`` steps of ``batch`` pictures of ``size`` x ``size``."""

    size: int
    batch: int
    steps: int


@dataclass(frozen=True)
class TrainConfig:
    """What fixes a run.  ``rate`` is the peak learning rate, reached after ``warmup`` steps and
    taken down to ``final_rate`` of it by a cosine over all phases."""

    network: str
    phases: tuple[Phase, ...]
    rate: float = 3e-3
    final_rate: float = 0.01
    warmup: int = 300
    weight_decay: float = 0.02
    clip: float = 1.0
    solid_weight: float = 0.5
    average: float = 0.999
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps in all phases together."""
        return sum(phase.steps for phase in self.phases)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    low = config.rate * config.final_rate
    return low + (config.rate - low) * 0.5 * (1 + math.cos(math.pi * progress))


def _channels_last(network: LateFusionNetwork) -> LateFusionNetwork:
    """Convolutions on the CPU run about a third faster in this layout."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Run:
    """The state of a training run: weights, their moving average, optimizer, step."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.network = _channels_last(build_network(config.network))
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.rate,
            fused=True,
        )
        self.step = 0
        self.samples = 0

    def train_step(self, batch: dict[str, Tensor]) -> float:
        """One optimizer step on a batch of uint8 samples; returns the loss."""
        image, alpha, previous = (
            batch[name].float().div(255) for name in ("image", "alpha", "previous")
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16):
            prediction = self.network(image.contiguous(memory_format=torch.channels_last), previous)
        loss = joint_loss(prediction, alpha, self.config.solid_weight)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        self.samples += len(image)
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def save(self, path: Path) -> None:
        """Writes the checkpoint; the file under ``path`` is always a whole one."""
        tensors = {f"network.{k}": v.contiguous() for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v.contiguous() for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v.contiguous() for k, v in state.items()}
        header = {
            "config": json.dumps(asdict(self.config)),
            "step": str(self.step),
            "samples": str(self.samples),
        }
        partial = path.with_suffix(".part")
        save_file(tensors, partial, header)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Continues from a checkpoint of the same network; the schedule is this run's own."""
        with safe_open(path, "pt") as file:
            header = file.metadata()
            network = json.loads(header["config"])["network"]
            if network != self.config.network:
                raise ValueError(
                    f"{path}: a checkpoint of {network!r}, not {self.config.network!r}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.network.load_state_dict(_below("network.", tensors))
        self.average = _below("average.", tensors)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            index, key = name.split(".")
            if tensor.ndim:
                # The fused optimizer walks memory: moments must lie there as their weights do.
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        self.step, self.samples = int(header["step"]), int(header["samples"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def load_averaged_network(path: Path) -> tuple[LateFusionNetwork, dict[str, Any]]:
    """The network with the averaged weights of a checkpoint, in evaluation mode, and what made it:
    its ``config``, ``step`` and ``samples``."""
    with safe_open(path, "pt") as file:
        header = {key: json.loads(value) for key, value in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    network = build_network(header["config"]["network"])
    network.load_state_dict(_below("average.", tensors))
    return network.eval(), header


def run_phase(
    run: Run, phase: Phase, end: int, data: tuple[list[Portrait], list[Picture]], output: Path
) -> None:
    """Trains until step ``end``, logging every 50 steps and saving every 200."""
    steps = end - run.step
    stream = SampleStream(
        *data,
        size=phase.size,
        start=run.samples,
        stop=run.samples + steps * phase.batch,
        seed=run.config.seed,
    )
    # Batches are made in a thread beside the network's: OpenCV and PyTorch both let go of the GIL.
    with Pipeline(("load", DataLoader(stream, phase.batch))) as batches:
        _train_on(run, batches, phase, end, output)


def _train_on(
    run: Run, batches: Iterable[dict[str, Tensor]], phase: Phase, end: int, output: Path
) -> None:
    total, begun = 0.0, time.perf_counter()
    for count, batch in enumerate(batches, start=1):
        loss = run.train_step(batch)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {run.step}; last good: {output}")
        total += loss
        if count % 50 == 0:
            rate = 50 * phase.batch / (time.perf_counter() - begun)
            print(
                f"step {run.step}/{run.config.steps} size {phase.size} loss {total / 50:.4f} "
                f"{rate:.0f} samples/s",
                flush=True,
            )
            total, begun = 0.0, time.perf_counter()
        if count % 200 == 0 or run.step == end:
            run.save(output)


def train(config: TrainConfig, data: Path, output: Path, *, resume: bool = False) -> Path:
    """Runs all phases; returns the path of the last checkpoint.

    Raises:
        DataError: the data folder cannot be used.
        FloatingPointError: the loss is not finite; the last checkpoint is kept.
    """
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "checkpoint.safetensors"
    run = Run(config)
    if resume:
        run.load(checkpoint)
    portraits = find_shards(data, "train", "extra")
    backgrounds = find_shards(data, "backgrounds")
    end = 0
    for phase in config.phases:
        end += phase.steps
        if run.step >= end:
            continue
        # No more pixels than the crops use: the cache is what fits in memory, and is fast.
        long_side = phase.size * 3 // 2
        loaded = load_portraits(portraits, long_side), load_backgrounds(backgrounds, long_side)
        print(f"{len(loaded[0])} portraits, {len(loaded[1])} backgrounds at {long_side} px")
        run_phase(run, phase, end, loaded, checkpoint)
    return checkpoint


def parse_phase(text: str) -> Phase:
    """Reads ``SIZE:BATCH:STEPS``."""
    size, batch, steps = (int(part) for part in text.split(":"))
    return Phase(size, batch, steps)


DEFAULT_PHASES = (
    Phase(128, 64, 2200),
    Phase(192, 32, 1200),
    Phase(256, 16, 1600),
    Phase(352, 8, 720),
)
"""What made the first weights of ``edge``: about two hours on two cores."""


def main() -> None:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(prog="python -m fusematte.training.train")
    parser.add_argument("--data", type=Path, required=True, help="folder of WebDataset tars")
    parser.add_argument("--output", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--network", default="edge")
    parser.add_argument("--phases", type=parse_phase, nargs="+", metavar="SIZE:BATCH:STEPS")
    parser.add_argument("--rate", type=float, default=TrainConfig.rate)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    args = parser.parse_args()
    config = TrainConfig(args.network, tuple(args.phases or DEFAULT_PHASES), rate=args.rate)
    print(train(config, args.data, args.output, resume=args.resume))


if __name__ == "__main__":
    main()
