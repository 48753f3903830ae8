"""Configuration of a training run: ``training/configs/NAME.toml`` or another TOML file.

A run consists of phases.  The learning rate follows one cosine over all phases, or a triangular
cycle within each (cyclical learning rates: Smith, WACV 2017).  A file may name a shipped ``base``,
whose settings are its defaults.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from fusematte.engine.errors import UsageError
from fusematte.training.augment import CROPS

CONFIGS = Path(__file__).parent / "configs"
OBJECTIVES = ("segmentation", "fusion", "joint")
SCHEDULES = ("cosine", "cyclic")
Config = TypeVar("Config")


@dataclass(frozen=True)
class Phase:
    """A part of a run (``steps`` steps, or ``epochs`` epochs) with the same sizes and parameters.

    sizes: heights of the crops in pixels, used in turn step by step.
    wide: width divided by height, rounded to a multiple of 32 pixels.
    batch: samples per process and backward pass.
    objective: the loss, one of OBJECTIVES: equation 7 for both branches, 8 or 9.
    crop: one of CROPS: ``affine`` (any scale), ``whole`` or ``transition``.
    frozen: modules that are not trained, including their batch norm statistics.
    freeze_norms: all batch norms are frozen.
    rate: peak learning rate of this phase's cycles, if not the run's; cycles: their number.
    """

    sizes: tuple[int, ...]
    batch: int
    wide: float = 1.0
    steps: int = 0
    epochs: float = 0.0
    objective: str = "joint"
    crop: str = "affine"
    frozen: tuple[str, ...] = ()
    freeze_norms: bool = False
    rate: float = 0.0
    cycles: int = 1

    @property
    def long_side(self) -> int:
        """Pixels that the longer side of a picture needs; pictures in memory are not larger."""
        return max(self.sizes) if self.crop == "transition" else max(self.sizes) * 3 // 2

    def shape(self, step: int) -> tuple[int, int]:
        """(height, width) of the crops in a step of the phase."""
        height = self.sizes[step % len(self.sizes)]
        return height, 32 * round(self.wide * height / 32)

    def __post_init__(self) -> None:
        _check(
            bool(self.sizes) and all(s > 0 and s % 32 == 0 for s in self.sizes),
            "sizes",
            "multiples of 32",
        )
        _check(self.batch > 0, "batch", "1 or more")
        _check(0.25 <= self.wide <= 4, "wide", "from 0.25 to 4")
        _check((self.steps > 0) != (self.epochs > 0), "steps", "given, or epochs, but not both")
        _check(self.objective in OBJECTIVES, "objective", f"one of {', '.join(OBJECTIVES)}")
        _check(self.crop in CROPS, "crop", f"one of {', '.join(CROPS)}")
        _check(self.cycles > 0, "cycles", "1 or more")


@dataclass(frozen=True)
class SceneConfig:
    """Distribution of composed scenes.  Probabilities are per scene, or per person or thing.

    people: probabilities of 0, 1, 2, ... people.
    heights: smallest and largest height of a person, as a fraction of the frame height.
    things: probability of up to three things; thing_sizes: range of their longer side, as a
    fraction of the frame height; in_front: probability that one covers a person.
    posters: probability of a picture of people, or of a sign with text, which is background.
    room_zoom: range of the room's zoom, as in ``random_affine``.
    plain: probability that the room is a plain wall or a colour pattern.
    out_of_focus: that the room is blurred; light: that a person is lit like the room.
    colours: that the colours of a room or a thing are changed.
    shadow, wrap: that a person casts a shadow; that the room's light falls on a person's edges.
    moving: that something moves; motion_blur: that a moving person is blurred.
    """

    people: tuple[float, ...] = (0.1, 0.62, 0.21, 0.07)
    heights: tuple[float, float] = (0.3, 1.6)
    things: float = 0.55
    thing_sizes: tuple[float, float] = (0.15, 1.2)
    in_front: float = 0.12
    posters: float = 0.05
    room_zoom: tuple[float, float] = (0.55, 1.9)
    plain: float = 0.1
    out_of_focus: float = 0.3
    light: float = 0.6
    colours: float = 1.0
    shadow: float = 0.3
    wrap: float = 0.3
    moving: float = 0.8
    motion_blur: float = 0.1


@dataclass(frozen=True)
class StreamConfig:
    """How samples are made.  Probabilities are per sample.

    scenes: the sample is a composed scene (``scene``); the others show one photograph or cut-out.
    negative: of those others, nobody in the picture.
    composited: of them, people over another room; cut-out people always are.
    repeats: how often portraits are used in turn, by their source; those of others once.
    previous_dropped: the previous alpha is empty; previous_foreign: it is somebody else's;
    otherwise it is that of the frame before, spoilt as a network's would be.
    sequences: share of the steps whose samples are short sequences, on which the network gives
    itself its previous alpha; earlier: frames of a sequence before the one that is learnt from.
    photometric: colours, blur, noise and compression vary.
    """

    scenes: float = 0.0
    negative: float = 0.07
    composited: float = 0.5
    repeats: dict[str, int] = field(default_factory=dict)
    previous_dropped: float = 0.5
    previous_foreign: float = 0.06
    sequences: float = 0.0
    earlier: int = 2
    photometric: bool = True
    scene: SceneConfig = field(default_factory=SceneConfig)

    def __post_init__(self) -> None:
        _check(all(times > 0 for times in self.repeats.values()), "repeats", "1 or more")

    def earlier_in(self, step: int) -> int:
        """Frames of a sequence before the one that is learnt from in a step; 0: no sequence."""
        begun = int((step + 1) * self.sequences) > int(step * self.sequences)
        return self.earlier if begun else 0


@dataclass(frozen=True)
class TrainConfig:
    """What fixes a run.

    network: a configuration of ``network.CONFIGS``.
    schedule: ``cosine``: up to ``rate`` within ``warmup`` steps and down to ``final_rate`` of it at
    the end of the last phase; ``cyclic``: from ``base_rate`` to ``rate`` and back in each cycle.
    rate_scale: factors of the learning rate, by the module they hold for.
    accumulate: backward passes per optimizer step.
    compositions: how often an epoch shows each portrait, over another room each time.
    solid_weight: w_p of equation 8 outside the transition region; detail_weight: that of the
    Laplacian pyramid and the gradient of the fused alpha, which the paper does not have.
    average: decay of the moving average of the weights.
    minutes: the run takes so long, and the plan's steps are shares of that time; 0: the plan holds.
    """

    network: str
    phases: tuple[Phase, ...]
    schedule: str = "cosine"
    rate: float = 3e-3
    base_rate: float = 5e-4
    final_rate: float = 0.01
    warmup: int = 300
    rate_scale: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.02
    clip: float = 1.0
    accumulate: int = 1
    compositions: int = 1
    solid_weight: float = 0.5
    detail_weight: float = 0.0
    average: float = 0.999
    minutes: float = 0.0
    seed: int = 0
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        _check(bool(self.phases), "phases", "one or more")
        _check(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        _check(self.accumulate > 0, "accumulate", "1 or more")
        _check(self.minutes >= 0, "minutes", "0 or more")

    def plan(self, portraits: int, processes: int) -> tuple[int, ...]:
        """Steps of each phase for a number of portraits and processes."""
        return tuple(
            phase.steps
            or math.ceil(
                phase.epochs * portraits * self.compositions / self.step_samples(phase, processes)
            )
            for phase in self.phases
        )

    def step_samples(self, phase: Phase, processes: int) -> int:
        """Samples per optimizer step over all processes."""
        return phase.batch * self.accumulate * processes

    def learning_rate(self, plan: Sequence[int], step: int) -> float:
        """The learning rate of a step; plan: steps of each phase."""
        if self.schedule == "cyclic":
            return self._cyclic_rate(plan, step)
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, sum(plan) - self.warmup)
        low = self.rate * self.final_rate
        return low + (self.rate - low) * 0.5 * (1 + math.cos(math.pi * progress))

    def _cyclic_rate(self, plan: Sequence[int], step: int) -> float:
        index = phase_at(plan, step)
        phase = self.phases[index]
        progress = (step - sum(plan[:index])) / plan[index] * phase.cycles % 1
        height = 1 - abs(2 * progress - 1)
        return self.base_rate + ((phase.rate or self.rate) - self.base_rate) * height


def phase_at(plan: Sequence[int], step: int) -> int:
    """Index of the phase of a step; after the end, of the last phase."""
    end = 0
    for index, steps in enumerate(plan):
        end += steps
        if step < end:
            return index
    return len(plan) - 1


def load_config(name: str) -> TrainConfig:
    """Reads a shipped configuration by name, or a TOML file by path.

    Raises:
        UsageError: the configuration does not exist or is invalid; the message names the key.
    """
    return from_table(TrainConfig, *_read(name))


def _read(name: str) -> tuple[dict[str, Any], str]:
    """A configuration's table merged over that of its ``base``, and the file's name."""
    shipped = sorted(path.stem for path in CONFIGS.glob("*.toml"))
    path = CONFIGS / f"{name}.toml" if name in shipped else Path(name)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"no configuration {name!r}: name a shipped one ({', '.join(shipped)}) or a TOML file",
            path=name,
            option="config",
        ) from error
    except ValueError as error:
        raise UsageError.at(path, f"not TOML: {error}") from error
    base = table.pop("base", None)
    if base is not None and (base not in shipped or base == name):
        raise UsageError.at(path, f"base: {base!r} is none of {', '.join(shipped)}", option="base")
    return (_read(base)[0] | table if base else table), str(path)


def from_table(kind: type[Config], table: Mapping[str, Any], where: str) -> Config:
    """Makes a configuration class from TOML or JSON.

    Raises:
        UsageError: a key is unknown or missing, or a value is invalid.
    """
    hints = get_type_hints(kind)
    unknown = [key for key in table if key not in hints]
    if unknown:
        raise UsageError(
            f"{where}: unknown key {unknown[0]!r}; there are: {', '.join(hints)}", option=unknown[0]
        )
    for entry in fields(kind):  # type: ignore[arg-type]
        needed = entry.default is MISSING and entry.default_factory is MISSING
        if needed and entry.name not in table:
            raise UsageError(f"{where}: {entry.name} is missing", option=entry.name)
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    origin = get_origin(hint)
    if origin is tuple and isinstance(value, list):
        (item, _) = get_args(hint)
        return tuple(_value(item, one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        _, item = get_args(hint)
        return {key: _value(item, one, f"{where}.{key}") for key, one in value.items()}
    if isinstance(hint, type) and hint.__module__ == __name__ and isinstance(value, Mapping):
        return from_table(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and not isinstance(hint, UnionType) and type(value) is hint:
        return value
    raise UsageError(
        f"{where}: {value!r} should be {getattr(hint, '__name__', hint)}", option=where
    )


def differences(ours: TrainConfig, theirs: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ between a configuration and a stored one."""
    mine = {key: _plain(value) for key, value in asdict(ours).items()}
    return [key for key in mine | dict(theirs) if mine.get(key) != theirs.get(key)]


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Converts tuples to lists, as in JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _check(holds: bool, name: str, must_be: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {must_be}")
