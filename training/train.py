"""The training loop, on one process or on several under torchrun.

A run follows its configuration (``config``): phases with an objective, sizes and frozen parts.
Checkpoints are safetensors files with the configuration in their header.  Samples depend only on
the step, so a run continues exactly from its checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any, NamedTuple

import cv2
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from fusematte.engine.errors import OutputError, UsageError
from fusematte.engine.media.files import make_folder, part_of
from fusematte.engine.pipeline import Pipeline
from fusematte.training.composer import Composer
from fusematte.training.config import Phase, StreamConfig, TrainConfig, differences, phase_at
from fusematte.training.data import Batches, SampleStream
from fusematte.training.errors import CheckpointError, DivergedError
from fusematte.training.front import LiteFront, teach
from fusematte.training.losses import OBJECTIVES, LossWeights
from fusematte.training.memory import keep_freed_memory
from fusematte.training.network import (
    EfficientNetLiteEncoder,
    LateFusionNetwork,
    Prediction,
    build_network,
)
from fusematte.training.report import PICTURES_EVERY, TrainingReport
from fusematte.training.samples import Material, Source, load_material
from fusematte.training.weights import below, initialise, load_encoder_weights, read_checkpoint

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
SAVE_EVERY = 200
"""Steps between two checkpoints."""
ENDLESS = 1 << 40
"""Steps of a run that the clock ends."""
SMALL_CUTOUT = 256
"""Cut-outs of at most so many pixels are a group of their own."""
FRONT_STEPS = 900
"""Steps in which the front learns what it replaces: a sixth of it is missing then and stays so."""

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class World:
    """The processes of a run: this one's rank, their number, its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @staticmethod
    def join() -> World:
        """This process as torchrun started it, or alone; on a GPU where there is one."""
        rank, size, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(local)
        if size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if cuda else "gloo")
        return World(rank, size, torch.device("cuda", local) if cuda else torch.device("cpu"))

    def leave(self) -> None:
        """Leaves the process group after training."""
        if self.size > 1:
            distributed.destroy_process_group()

    def loaders(self) -> int:
        """Processes that keep the device fed: a CPU has its hands full with the network, and a
        thread beside it will do."""
        if self.device.type == "cpu":
            return 0
        return max(1, (os.cpu_count() or 1) // self.size - 1)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a value over all processes."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value / self.size

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process: all of them stop together."""
        return (
            flag
            if self.size == 1
            else self.mean(torch.tensor(float(flag), device=self.device)).item() > 0
        )


@cache
def computes_faster_in_bf16(device: torch.device) -> bool:
    """Whether convolutions of a training step are faster in bf16 than in f32: it depends on the
    processor, and is measured."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    convolution = nn.Conv2d(96, 48, 3, padding=1)
    picture = torch.rand(4, 96, 48, 48).contiguous(memory_format=torch.channels_last)
    seconds = {}
    for bf16 in (False, True, False, True):  # the first round only warms up
        begun = perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            convolution(picture).float().sum().backward()
        seconds[bf16] = perf_counter() - begun
    return seconds[True] < seconds[False]


def _channels_last(network: LateFusionNetwork) -> LateFusionNetwork:
    """Convolutions on the CPU run about a third faster in this layout."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Run:
    """The state of a training run: weights, their moving average, optimizer, step."""

    def __init__(self, config: TrainConfig, world: World | None = None) -> None:
        self.config, self.world = config, world or World()
        torch.manual_seed(config.seed)
        try:
            network = build_network(config.network)
        except ValueError as error:
            raise UsageError(str(error)) from error
        self.network = _channels_last(network).to(self.world.device)
        self.parallel: nn.Module = self.network
        self.phase = config.phases[0]
        self.plan: tuple[int, ...] | None = None
        self.init: str | None = None
        self.step = self.samples = 0
        self.seconds = 0.0
        self.bf16 = computes_faster_in_bf16(self.world.device)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=config.rate, fused=True)
        self.reset_average()

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by the factor of their learning rate and by whether they decay."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            scale = next(
                (s for part, s in self.config.rate_scale.items() if name.startswith(f"{part}.")),
                1.0,
            )
            groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
        for part in self.config.rate_scale:
            self._part(part)
        return [
            {
                "params": parameters,
                "weight_decay": self.config.weight_decay if decays else 0.0,
                "scale": scale,
            }
            for (scale, decays), parameters in groups.items()
        ]

    def _part(self, name: str) -> nn.Module:
        try:
            return self.network.get_submodule(name)
        except AttributeError as error:
            raise UsageError(f"the network {self.config.network!r} has no part {name!r}") from error

    def reset_average(self) -> None:
        """Resets the moving average to the current weights."""
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def begin(self, phase: Phase) -> None:
        """Freezes the phase's frozen modules; the rest is trained.

        Raises:
            UsageError: the network has no such module, or not the decoders for the objective.
        """
        if self.network.config.decoders == 1 and phase.objective != "joint":
            raise UsageError(f"a single decoder has no objective {phase.objective!r}, only joint")
        self.phase = phase
        self.network.requires_grad_(True).train()
        frozen = [self._part(name) for name in phase.frozen]
        if phase.objective == "segmentation" and self.network.config.detail_width:
            frozen.append(self.network.detail)  # like the fusion network, it is not asked
        if phase.freeze_norms:
            frozen += [m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d)]
        for module in frozen:
            module.requires_grad_(False).eval()
        self.parallel = self.network
        if self.world.size > 1:
            on_gpu = self.world.device.type == "cuda"
            self.parallel = DistributedDataParallel(
                self.network, device_ids=[self.world.device] if on_gpu else None
            )

    def train_step(self, batches: list[Batch]) -> tuple[float, Prediction]:
        """One optimizer step on batches of samples; returns the loss, the same in all
        processes, and the last prediction.

        Raises:
            DivergedError: the loss or its gradient is not finite; the weights are unchanged.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * group["scale"]
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.world.device)
        for index, batch in enumerate(batches):
            with self._sync(last=index == len(batches) - 1):
                loss, prediction = self._loss(batch)
                (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / len(batches)
        value = self.world.mean(total).item()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise DivergedError(f"the loss is {value}, its gradient's norm {norm}")
        self.optimizer.step()
        self._update_average()
        self.step += 1
        self.samples += self.config.step_samples(self.phase, self.world.size)
        return value, prediction

    @property
    def learning_rate(self) -> float:
        """The next step's learning rate, before the factors of single modules."""
        assert self.plan is not None
        return self.config.learning_rate(self.plan, self.position)

    @property
    def position(self) -> int:
        """The position in the plan: the run's step, or with ``minutes`` that of the time used."""
        if not self.config.minutes:
            return self.step
        assert self.plan is not None
        return int(self.seconds / (60 * self.config.minutes) * sum(self.plan))

    def _sync(self, *, last: bool) -> Any:  # noqa: ANN401
        """Gradients are exchanged between processes only with the last batch of a step."""
        if isinstance(self.parallel, DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        return nullcontext()

    def _loss(self, batch: Batch) -> tuple[Tensor, Prediction]:
        image, alpha, exact, previous = (
            self._on_device(batch[name]) for name in ("image", "alpha", "exact", "previous")
        )
        if "earlier" in batch:
            previous = self.own_previous(batch["earlier"], previous)
        with self._precision():
            # The segmentation loss has no use for the fusion network, the dearest part of `paper`.
            prediction = self.parallel(image, previous, fuse=self.phase.objective != "segmentation")
        weights = LossWeights(self.config.solid_weight, self.config.detail_weight)
        return OBJECTIVES[self.phase.objective](prediction, alpha, exact, weights), prediction

    @torch.no_grad()
    def own_previous(self, earlier: Tensor, previous: Tensor) -> Tensor:
        """The network's own alpha of the last of some earlier frames, [N, T, 3, H, W]: it learns
        to live with its mistakes."""
        learning = [module for module in self.network.modules() if module.training]
        self.network.eval()
        for frame in earlier.unbind(1):
            with self._precision():
                previous = self.network(self._on_device(frame), previous).alpha.float()
        for module in learning:
            module.training = True
        return previous

    def _on_device(self, values: Tensor) -> Tensor:
        """Moves bytes to the device as floats in 0..1."""
        numbers = values.to(self.world.device, non_blocking=True).float().div(255)
        return numbers.contiguous(memory_format=torch.channels_last)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        state = self.network.state_dict()
        floats = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floats], [state[name] for name in floats], 1 - decay
        )
        for name in state.keys() - set(floats):
            self.average[name].copy_(state[name])

    def save(self, path: Path) -> None:
        """Writes the checkpoint; the file at ``path`` is always complete.

        Raises:
            OutputError: it cannot be written; the previous one is kept.
        """
        if self.world.rank:
            return
        tensors = {f"network.{k}": v.contiguous() for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v.contiguous() for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v.contiguous() for k, v in state.items()}
        header = {
            "config": json.dumps(asdict(self.config)),
            "plan": json.dumps(self.plan),
            "init": json.dumps(self.init),
            "processes": str(self.world.size),
            "step": str(self.step),
            "samples": str(self.samples),
            "bf16": json.dumps(self.bf16),
        }
        if self.config.minutes:
            header["seconds"] = str(self.seconds)
        partial = part_of(path)
        try:
            save_file(tensors, partial, header)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise OutputError.at(path, f"the checkpoint cannot be written: {error}") from error

    def load(self, path: Path) -> None:
        """Continues from a checkpoint of the same configuration.

        Raises:
            CheckpointError: it does not exist, or has another configuration.
        """
        header, tensors = read_checkpoint(path)
        if changed := differences(self.config, header["config"]):
            theirs = header["config"].get(changed[0])
            raise CheckpointError.at(
                path,
                f"made with another configuration ({changed[0]}: {theirs!r:.60})",
                remedy="continue with that one, or start a new run from its weights with --init",
            )
        if header["processes"] != self.world.size:
            raise CheckpointError.at(
                path,
                f"made by {header['processes']} processes, not {self.world.size}: start as many",
            )
        self.network.load_state_dict(below("network.", tensors))
        self.average = {
            name: tensor.to(self.world.device)
            for name, tensor in below("average.", tensors).items()
        }
        self._load_optimizer(below("optimizer.", tensors))
        self.plan, self.init = tuple(header["plan"]), header.get("init")
        self.step, self.samples = header["step"], header["samples"]
        self.seconds, self.bf16 = header.get("seconds", 0.0), header["bf16"]

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, key = name.split(".")
            if tensor.ndim:
                # The fused optimizer walks memory: moments must lie there as their weights do.
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


class Step(NamedTuple):
    """A finished step: its number and loss; the position in the plan of all phases, and its end."""

    number: int
    loss: float
    position: int
    total: int


OnStep = Callable[[Step], None]
"""Called after each step."""


def train(
    config: TrainConfig,
    sources: Sequence[Source],
    output: Path,
    *,
    resume: bool = False,
    init: str | None = None,
    encoder_weights: str | None = None,
    workers: int | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Runs all phases; returns the path of the last checkpoint.

    Before the objective changes, a copy of ``checkpoint.safetensors`` is kept under the old
    objective's name.

    Args:
        sources: training data by kind.
        init: a checkpoint or model to start from; encoder_weights: ``imagenet`` or a file.
        workers: processes that make samples; 0: a thread; None: chosen by device.

    Raises:
        DataError, CheckpointError, ModelError, UsageError: an argument cannot be used.
        DivergedError: the loss is not finite; the last checkpoint is kept.
        OutputError: ``output`` cannot be written.
        KeyboardInterrupt: after Ctrl-C, once the current step is finished and saved.
    """
    keep_freed_memory()
    run = Run(config, World.join())
    checkpoint = make_folder(output) / CHECKPOINT
    teacher = None
    if resume:
        run.load(checkpoint)
    elif checkpoint.exists():
        raise UsageError.at(
            checkpoint,
            "exists already",
            remedy="continue it with --resume, or choose another folder",
        )
    else:
        teacher = _start(run, init, encoder_weights)
    workers = run.world.loaders() if workers is None else workers
    for index in range(phase_at(run.plan, run.position) if run.plan else 0, len(config.phases)):
        phase = config.phases[index]
        if run.plan and run.position >= sum(run.plan[: index + 1]):
            continue
        stream, plan = _load_phase(run, sources, index)
        if index == 0 and teacher is not None:
            _teach_front(run, teacher, stream)
        run.begin(phase)
        _run_phase(run, stream, sum(plan[: index + 1]), output, workers, on_step)
        following = config.phases[index + 1].objective if index + 1 < len(config.phases) else None
        if following not in (None, phase.objective):
            run.save(output / f"{phase.objective}.safetensors")
    run.world.leave()
    return checkpoint


def _load_phase(
    run: Run, sources: Sequence[Source], index: int
) -> tuple[SampleStream, tuple[int, ...]]:
    """Loads the data of a phase; returns its samples and the steps of all phases."""
    config, phase = run.config, run.config.phases[index]
    material = load_material(sources, phase.long_side)
    if run.plan is None:
        run.plan = config.plan(len(material.portraits), run.world.size)
    log.log(
        logging.INFO if run.world.rank == 0 else logging.DEBUG,
        "phase %d/%d: %s, %d steps; %d portraits, %d cut-outs, %d rooms, %d things; %d px, %s",
        index + 1, len(config.phases), phase.objective, run.plan[index], len(material.portraits),
        len(material.cutouts), len(material.rooms), len(material.things), phase.long_side,
        "bf16" if run.bf16 else "f32",
    )  # fmt: skip
    stream = SampleStream(
        material.portraits,
        _composer(material, config.stream),
        phase,
        first=run.samples if config.minutes else _first_sample(run, index),
        step_samples=config.step_samples(phase, run.world.size),
        seed=config.seed,
        config=config.stream,
    )
    return stream, run.plan


def _composer(material: Material, config: StreamConfig) -> Composer:
    """Every second person of a scene has a true alpha; the rest are these, portraits of few pixels
    but fine hair, and people of photographs."""
    small = [one for one in material.cutouts if max(one.size) <= SMALL_CUTOUT]
    large = [one for one in material.cutouts if max(one.size) > SMALL_CUTOUT]
    pictured = [one.image for one in material.portraits if one.image is not None]
    cut_from = [one.cutout for one in material.portraits]
    groups = [large, large, small, cut_from]
    return Composer(
        material.rooms,
        groups,
        material.things,
        pictured,
        config.scene,
        photometric=config.photometric,
    )


def _start(run: Run, init: str | None, encoder_weights: str | None) -> LiteFront | None:
    """Initializes the network's weights; returns the teacher of its front, if there is one."""
    teacher = None
    if init is not None:
        initialise(run.network, init)
        run.init = init
    if encoder_weights is not None:
        teacher = load_encoder_weights(run.network, encoder_weights)
    run.reset_average()
    return teacher


def _teach_front(run: Run, teacher: LiteFront, stream: SampleStream) -> None:
    encoder = run.network.encoder
    assert isinstance(encoder, EfficientNetLiteEncoder)
    batches = Batches(
        0, FRONT_STEPS, batch=run.config.phases[0].batch, accumulate=1, rank=0, processes=1
    )
    loader = DataLoader(stream, batch_sampler=batches)
    with Pipeline(("load", loader)) as loaded:
        pictures = (batch["image"].to(run.world.device).float().div(255) for batch in loaded)
        missed = teach(encoder, teacher.to(run.world.device), pictures, FRONT_STEPS)
    log.info("the front answers as ImageNet's first blocks do, but for %.0f %%", 100 * missed)
    run.reset_average()


def _first_sample(run: Run, index: int) -> int:
    assert run.plan is not None
    return sum(
        steps * run.config.step_samples(phase, run.world.size)
        for phase, steps in zip(run.config.phases[:index], run.plan, strict=False)
    )


def _run_phase(
    run: Run, stream: SampleStream, end: int, output: Path, workers: int, on_step: OnStep | None
) -> None:
    """Trains until the plan's position is ``end``."""
    assert run.plan is not None
    loader = _loader(run, stream, end, workers)
    report = TrainingReport(output, sum(run.plan), run.step) if run.world.rank == 0 else None
    begun = perf_counter() - run.seconds
    # Batches are made in a thread beside the network's: OpenCV and PyTorch both let go of the GIL.
    try:
        with _interrupts_deferred() as interrupted, Pipeline(("load", loader)) as loaded:
            for step_batches in _portions(loaded, run.config.accumulate):
                rate = run.learning_rate
                try:
                    loss, prediction = run.train_step(step_batches)
                except DivergedError as error:
                    raise DivergedError(
                        _diverged(run, stream, step_batches, error, output)
                    ) from None
                run.seconds = perf_counter() - begun
                if on_step is not None:
                    on_step(Step(run.step, loss, run.position, sum(run.plan)))
                done = run.world.any(run.position >= end)
                stopped = run.world.any(bool(interrupted))
                if report is not None:
                    batch = step_batches[-1]
                    seen = run.config.step_samples(run.phase, run.world.size)
                    report.step(run.step, loss, rate, seen, batch["image"].shape[-1])
                    if run.step % PICTURES_EVERY == 0 or run.position >= sum(run.plan):
                        report.pictures(run.step, batch, prediction)
                if stopped or run.step % SAVE_EVERY == 0:
                    run.save(output / CHECKPOINT)
                if stopped:
                    raise KeyboardInterrupt
                if done:
                    break
        run.save(output / CHECKPOINT)
    finally:
        if report is not None:
            report.close()


def _loader(run: Run, stream: SampleStream, end: int, workers: int) -> DataLoader[Batch]:
    """Loads the batches from the run's current step to the plan's position ``end``."""
    batches = Batches(
        run.samples,
        ENDLESS if run.config.minutes else end - run.step,
        batch=run.phase.batch,
        accumulate=run.config.accumulate,
        rank=run.world.rank,
        processes=run.world.size,
    )
    return DataLoader(
        stream,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        pin_memory=run.world.device.type == "cuda",
    )


def _begin_worker(number: int) -> None:  # noqa: ARG001
    """Turns OpenCV's threads off in a worker process: they do not survive a fork."""
    cv2.setNumThreads(0)


def _portions(batches: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    iterator = iter(batches)
    while portion := list(islice(iterator, count)):
        yield portion


def _diverged(
    run: Run, stream: SampleStream, batches: list[Batch], error: DivergedError, output: Path
) -> str:
    numbers = [int(number) for batch in batches for number in batch["number"]]
    names = ", ".join(dict.fromkeys(stream.name_of(number) for number in numbers))
    kept = output / CHECKPOINT
    last = f"{kept} is the last good checkpoint" if kept.exists() else "no checkpoint was made yet"
    return (
        f"{error} at step {run.step + 1}, on samples {numbers[0]} to {numbers[-1]} "
        f"({names:.200}); {last}; try a lower rate"
    )


@contextmanager
def _interrupts_deferred() -> Iterator[list[int]]:
    """Collects Ctrl-C, so that a step is never left halfway."""
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        caught.append(number)

    before = signal.signal(signal.SIGINT, catch)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)
