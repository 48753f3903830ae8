"""Configurations: what is shipped, what is refused, and the learning rate they lead to."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from fusematte.engine.errors import UsageError
from fusematte.training.config import (
    CONFIGS,
    Phase,
    TrainConfig,
    differences,
    from_table,
    load_config,
    phase_at,
)

GOOD = 'network = "edge"\n[[phases]]\nsizes = [64]\nbatch = 2\nsteps = 3\n'


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS.glob("*.toml")])
def test_shipped_configurations_load(name: str) -> None:
    config = load_config(name)
    stored = json.loads(json.dumps(asdict(config)))
    assert from_table(TrainConfig, stored, "json") == config
    assert differences(config, stored) == []
    assert all(steps > 0 for steps in config.plan(1000, 1))


def test_the_paper_is_followed_to_the_letter() -> None:
    config = load_config("paper")
    # Section 3.4: epochs of the three steps, what is frozen, the learning rates, the crops.
    epochs: dict[str, float] = {}
    for phase in config.phases:
        epochs[phase.objective] = epochs.get(phase.objective, 0) + phase.epochs
    assert epochs == {"segmentation": 15, "fusion": 4, "joint": 7}
    *segmentation, fusion, joint = config.phases
    assert all(phase.frozen == ("fusion",) for phase in segmentation)
    assert fusion.frozen == ("encoder", "foreground", "background")
    assert joint.freeze_norms and not joint.frozen
    assert (config.base_rate, config.rate, joint.rate) == (5e-4, 1.5e-3, 1e-3)
    assert [(p.crop, p.sizes) for p in config.phases] == [
        ("whole", (512,)), *[("transition", (512, 800))] * 3,
    ]  # fmt: skip
    assert max(phase.long_side for phase in config.phases) == 800
    # 28610 pictures of 228 + 211 people, each over backgrounds of its own.
    assert round(28610 / (228 + 211)) == config.compositions == 65
    assert config.plan(439, 1)[2] == int(np.ceil(4 * 439 * 65 / 8))
    assert (config.solid_weight, config.stream.composited) == (0.1, 1)


def test_the_cosine_warms_up_and_comes_down() -> None:
    phases = Phase((64,), 1, steps=60), Phase((64,), 1, steps=50)
    config = TrainConfig("edge", phases, rate=3e-3, warmup=10, final_rate=0.01)
    plan = config.plan(7, 1)
    assert plan == (60, 50)
    rates = [config.learning_rate(plan, step) for step in range(111)]
    assert rates[0] == pytest.approx(3e-4)
    assert rates[9] == rates[10] == pytest.approx(3e-3)
    # Half way down the cosine: the mean of the peak and a hundredth of it.
    assert rates[60] == pytest.approx((3e-3 + 3e-5) / 2)
    assert rates[110] == pytest.approx(3e-5)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_cycles_go_up_and_down_within_each_phase() -> None:
    phases = Phase((64,), 1, steps=40, cycles=2), Phase((64,), 1, steps=10, rate=1e-3)
    config = TrainConfig("edge", phases, schedule="cyclic", rate=1.5e-3, base_rate=5e-4)
    rates = [config.learning_rate((40, 10), step) for step in range(50)]
    for bottom in (0, 20, 40):
        assert rates[bottom] == pytest.approx(5e-4)
    assert rates[10] == rates[30] == pytest.approx(1.5e-3)
    assert rates[5] == rates[15] == pytest.approx(1e-3)
    assert rates[45] == pytest.approx(1e-3)  # the last phase's own peak
    assert max(rates) == pytest.approx(1.5e-3)


def test_epochs_become_steps_by_the_data_and_the_processes() -> None:
    phases = (Phase((64,), 4, epochs=3), Phase((64,), 4, steps=5))
    config = TrainConfig("edge", phases, accumulate=2, compositions=10)
    assert config.plan(7, 1) == (27, 5)  # 3 * 70 / 8 = 26.25
    assert config.plan(7, 2) == (14, 5)
    assert [phase_at((27, 5), step) for step in (0, 26, 27, 31, 32)] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("network = ", "not TOML"),
        (GOOD + "colour = 3", "unknown key 'colour'"),
        ('speed = 3\nnetwork = "edge"\nphases = []', "unknown key 'speed'"),
        ('network = "edge"', "phases is missing"),
        ('network = "edge"\nphases = []', "phases must be one or more"),
        (GOOD.replace("steps = 3", ""), "steps must be given, or epochs"),
        (GOOD + "epochs = 2", "steps must be given, or epochs, but not both"),
        (GOOD.replace("[64]", "[60]"), "sizes must be multiples of 32"),
        (GOOD.replace("[64]", "64"), r"phases\[0\]: sizes: 64 should be"),
        (GOOD.replace("batch = 2", 'batch = "2"'), "batch: '2' should be int"),
        (GOOD + 'objective = "beauty"', "objective must be one of segmentation"),
        (GOOD + 'crop = "round"', "crop must be one of affine"),
        ('base = "nothing"', "base: 'nothing' is none of edge"),
        ('schedule = "fast"\n' + GOOD, "schedule must be one of cosine"),
        (GOOD + "[stream]\nnegative = true", "stream: negative: True should be float"),
        (GOOD + "[stream.repeats]\ngroups = 0", "stream: repeats must be 1 or more"),
    ],
)
def test_bad_configurations_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint) as error:
        load_config(str(path))
    assert "mine.toml" in str(error.value)


def test_an_unknown_configuration_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no configuration 'big': .*edge, .*paper"):
        load_config("big")
    (tmp_path / "mine.toml").write_text(GOOD)
    assert load_config(str(tmp_path / "mine.toml")).phases == (Phase((64,), 2, steps=3),)


def test_ablations_differ_in_the_network_alone() -> None:
    short = load_config("edge-short")
    for name in ("edge-single", "edge-still"):
        ablated = load_config(name)
        assert differences(short, json.loads(json.dumps(asdict(ablated)))) == ["network"]


def test_differences_are_named() -> None:
    config = load_config("edge")
    stored = json.loads(json.dumps(asdict(replace(config, rate=9.0, seed=4))))
    assert differences(config, stored) == ["rate", "seed"]
    assert differences(config, {**stored, "rate": config.rate, "seed": 0, "old": 1}) == ["old"]
