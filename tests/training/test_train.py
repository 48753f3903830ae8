"""The training loop: exact continuation, what stops it, what it leaves behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tests.training.material import make_data

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("tensorboard")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tests.training.published import published_lite_state  # noqa: E402

import fusematte.training.train as training  # noqa: E402
from fusematte.engine.errors import OutputError, UsageError  # noqa: E402
from fusematte.training.config import Phase, StreamConfig, TrainConfig  # noqa: E402
from fusematte.training.errors import CheckpointError, DataError, DivergedError  # noqa: E402
from fusematte.training.layouts import find_sources  # noqa: E402
from fusematte.training.network import EfficientNetLiteEncoder, build_network  # noqa: E402
from fusematte.training.train import CHECKPOINT, Run, Step, train  # noqa: E402
from fusematte.training.weights import (  # noqa: E402
    initialise,
    load_averaged_network,
    load_encoder_weights,
    mean_network,
    read_checkpoint,
)

CONFIG = TrainConfig("edge", (Phase((64,), 2, steps=2), Phase((32, 64), 2, steps=2)), warmup=10)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On busy cores two threads wait for one another; and sums stay in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def run_training(config: TrainConfig, data: Path, output: Path, **options: Any) -> Path:  # noqa: ANN401
    sources = find_sources(data)
    return train(config, sources, output, **options)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of four steps at one go."""
    torch.set_num_threads(1)
    return run_training(CONFIG, data, tmp_path_factory.mktemp("run"))


def header(checkpoint: Path) -> dict[str, Any]:
    with safe_open(checkpoint, "pt") as file:
        return {key: json.loads(value) for key, value in file.metadata().items()}


def interrupt_at(step: int) -> Callable[[Step], None]:
    """Ctrl-C while a step is being done."""

    def on_step(done: Step) -> None:
        if done.number == step:
            signal.raise_signal(signal.SIGINT)

    return on_step


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_interrupted_run_continues_as_if_it_had_not_been(
    trained: Path, data: Path, tmp_path: Path, step: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_training(CONFIG, data, tmp_path, on_step=interrupt_at(step))
    half = load_file(tmp_path / CHECKPOINT)
    assert header(tmp_path / CHECKPOINT)["step"] == step
    steps: list[int] = []
    continued = run_training(
        CONFIG, data, tmp_path, resume=True, on_step=lambda step: steps.append(step.number)
    )
    assert steps == list(range(step + 1, 5))
    second, whole = load_file(continued), load_file(trained)
    assert header(continued) == header(trained)
    assert set(second) == set(whole)
    assert {name.split(".")[0] for name in whole} == {"network", "average", "optimizer"}
    for name, tensor in whole.items():
        assert torch.equal(second[name], tensor), name
    assert not torch.equal(half["network.fusion.head.weight"], whole["network.fusion.head.weight"])


def test_loader_processes_make_the_same_samples(trained: Path, data: Path, tmp_path: Path) -> None:
    made = load_file(run_training(CONFIG, data, tmp_path, workers=2))
    for name, tensor in load_file(trained).items():
        assert torch.equal(made[name], tensor), name


def test_what_cannot_be_written_is_said(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/run: cannot be created"):
        run_training(CONFIG, data, tmp_path / "file" / "run")
    run = fresh()
    run.save(tmp_path / "a.safetensors")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken: the checkpoint cannot be written"):
        run.save(tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "file", "taken"]


def test_a_finished_run_is_left_alone(trained: Path, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / trained.name
    copy.write_bytes(trained.read_bytes())
    run_training(CONFIG, data, tmp_path, resume=True)
    assert copy.read_bytes() == trained.read_bytes()
    with pytest.raises(UsageError, match="exists already; continue it with --resume"):
        run_training(CONFIG, data, tmp_path)
    assert copy.read_bytes() == trained.read_bytes()


def test_what_a_run_leaves_behind(trained: Path) -> None:
    made_by = header(trained)
    assert (made_by["step"], made_by["samples"], made_by["plan"]) == (4, 8, [2, 2])
    assert made_by["config"]["network"] == "edge"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.parent))
    events.Reload()
    assert events.Tags()["images"] == ["samples"]
    (sheet,) = (trained.parent / "samples").iterdir()
    picture = cv2.imread(str(sheet))
    # Two samples; picture, previous, truth, alpha, F, B and beta of each, at the last step's size.
    assert picture is not None and picture.shape == (2 * 64, 7 * 64, 3)
    tiles = picture.reshape(2, 64, 7, 64, 3)
    assert all(tiles[:, :, index].std() > 0 for index in (0, 3, 4, 5, 6))


def test_a_loss_that_is_no_number_stops_names_the_batch_and_keeps_the_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    # A learning rate that no network survives, after steps that are too small to matter.
    phases = Phase((64,), 2, steps=200), Phase((64,), 2, steps=5, rate=1e30)
    mad = replace(CONFIG, phases=phases, schedule="cyclic", rate=1e-9, base_rate=1e-9)
    with pytest.raises(KeyboardInterrupt):
        run_training(mad, data, tmp_path, on_step=interrupt_at(1))
    checkpoint = tmp_path / CHECKPOINT
    content = checkpoint.read_bytes()
    tensors = load_file(checkpoint)
    made_by = {key: json.dumps(value) for key, value in header(checkpoint).items()}
    # As if the two hundred were over.
    save_file(tensors, checkpoint, made_by | {"step": "200", "samples": "400"})
    content = checkpoint.read_bytes()
    with pytest.raises(DivergedError) as error:
        run_training(mad, data, tmp_path, resume=True)
    message = str(error.value)
    assert "the loss is" in message and "p00" in message
    assert f"{checkpoint} is the last good checkpoint" in message
    assert "samples 40" in message
    assert checkpoint.read_bytes() == content


def batch(seed: int, size: int = 64, count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randint(0, 256, (count, channels, size, size), generator=generator).byte()
        for key, channels in (("image", 3), ("alpha", 1), ("previous", 1))
    } | {
        "exact": torch.full((count, 1, size, size), 255, dtype=torch.uint8),
    }


def fresh(config: TrainConfig = CONFIG, phase: int = 0) -> Run:
    run = Run(config)
    run.plan = config.plan(4, 1)
    run.begin(config.phases[phase])
    return run


def test_first_step_by_hand(tmp_path: Path) -> None:
    run = fresh()
    name = "foreground.blocks.2.head.bias"
    before = run.network.state_dict()[name].clone()
    assert math.isfinite(run.train_step([batch(0)])[0])
    after = run.network.state_dict()[name]
    # AdamW's first step moves each weight by the learning rate, here 3e-3 / 10, along the sign
    # of its gradient (biases are not decayed).
    torch.testing.assert_close(
        (after - before).abs(), torch.full_like(after, 3e-4), rtol=1e-2, atol=0
    )
    # The average's first decay is (1 + 0) / (10 + 0).
    torch.testing.assert_close(run.average[name], 0.1 * before + 0.9 * after)
    run.save(tmp_path / "a.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_parts_may_learn_more_slowly() -> None:
    run = fresh(replace(CONFIG, rate_scale={"foreground.blocks.2.head": 0.25}))
    name = "foreground.blocks.2.head.bias"
    before = run.network.state_dict()[name].clone()
    run.train_step([batch(0)])
    moved = (run.network.state_dict()[name] - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.25 * 3e-4), rtol=1e-2, atol=0)
    with pytest.raises(UsageError, match="no part 'engine'"):
        Run(replace(CONFIG, rate_scale={"engine": 2.0}))


def test_frozen_parts_stay_as_they_are() -> None:
    phases = (
        Phase((64,), 2, steps=1, objective="segmentation", frozen=("fusion",)),
        Phase(
            (64,), 2, steps=1, objective="fusion", frozen=("encoder", "foreground", "background")
        ),
        Phase((64,), 2, steps=1, freeze_norms=True),
    )
    config = replace(CONFIG, phases=phases)
    for index, frozen in enumerate((("fusion.",), ("encoder.", "foreground.", "background."), ())):
        run = fresh(config, index)
        before = {name: value.clone() for name, value in run.network.state_dict().items()}
        run.train_step([batch(0)])
        norms = {
            f"{name}.{part}"
            for name, module in run.network.named_modules()
            if isinstance(module, torch.nn.BatchNorm2d)
            for part in module.state_dict()
        }
        state = run.network.state_dict()
        moved = {name for name, value in state.items() if not torch.equal(value, before[name])}
        assert not moved & norms if not frozen else not any(n.startswith(frozen) for n in moved)
        for part in ("encoder.", "foreground.", "background.", "fusion."):
            if part not in frozen:
                assert any(name.startswith(part) for name in moved), (index, part)
    with pytest.raises(UsageError, match="no part 'wings'"):
        fresh(replace(config, phases=(replace(phases[0], frozen=("wings",)),)))


def test_accumulation_is_one_step_on_the_mean_gradient() -> None:
    first, second = batch(0), batch(1)
    both = fresh(replace(CONFIG, accumulate=2, clip=1e9))
    loss, _ = both.train_step([first, second])
    assert (both.step, both.samples) == (1, 4)
    alone = [fresh(replace(CONFIG, clip=1e9)) for _ in range(2)]
    losses = [run.train_step([one])[0] for run, one in zip(alone, (first, second), strict=True)]
    assert loss == pytest.approx(np.mean(losses), rel=1e-2)
    for parameter, *parts in zip(
        *(run.network.parameters() for run in (both, *alone)), strict=True
    ):
        if parameter.grad is not None:
            mean = torch.stack([part.grad for part in parts]).mean(0)  # type: ignore[misc]
            torch.testing.assert_close(parameter.grad, mean, rtol=0.1, atol=2e-2)


def test_each_step_of_the_paper_keeps_its_last_checkpoint(data: Path, tmp_path: Path) -> None:
    phases = (
        Phase((64,), 2, epochs=0.5, objective="segmentation", crop="whole", frozen=("fusion",)),
        Phase((32,), 2, steps=1, objective="segmentation", crop="transition", frozen=("fusion",)),
        Phase((32,), 2, steps=1, objective="fusion", crop="transition", frozen=("encoder",)),
        Phase((32,), 2, steps=1, crop="transition", freeze_norms=True),
    )
    stream = StreamConfig(negative=0, composited=1, photometric=False)
    config = replace(CONFIG, phases=phases, schedule="cyclic", stream=stream)
    final = run_training(config, data, tmp_path)
    steps = {path.stem: header(path)["step"] for path in tmp_path.glob("*.safetensors")}
    assert steps == {"segmentation": 2, "fusion": 3, "checkpoint": 4}
    assert header(final)["plan"] == [1, 1, 1, 1]
    load_averaged_network(tmp_path / "segmentation.safetensors")


def test_a_run_by_the_clock_ends_on_time_and_goes_on_where_it_was(
    data: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, minutes=0.1)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, data, tmp_path, on_step=interrupt_at(2))
    before = header(tmp_path / CHECKPOINT)
    assert 0 < before["seconds"] < 6
    steps: list[int] = []
    run_training(
        config, data, tmp_path, resume=True, on_step=lambda step: steps.append(step.number)
    )
    after = header(tmp_path / CHECKPOINT)
    assert after["seconds"] >= 6
    assert steps == list(range(3, after["step"] + 1))
    run = Run(config)
    run.plan = (2, 2)
    run.seconds = 3.0
    assert run.position == 2  # half of the time is half of the plan
    assert run.learning_rate == config.learning_rate((2, 2), 2)


def test_in_a_sequence_the_network_sees_its_own_alpha_of_the_frame_before() -> None:
    run = Run(CONFIG)
    run.begin(CONFIG.phases[0])
    generator = torch.Generator().manual_seed(0)
    earlier = torch.randint(0, 256, (2, 2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    previous = torch.zeros(2, 1, 64, 64)
    own = run.own_previous(earlier, previous)
    assert all(module.training for module in run.network.modules())
    expected = previous
    with torch.no_grad():
        run.network.eval()
        for frame in earlier.unbind(1):
            with torch.autocast("cpu", torch.bfloat16, enabled=run.bf16):
                expected = run.network(frame.float() / 255, expected).alpha.float()
    torch.testing.assert_close(own, expected)


def test_composed_scenes_with_sequences_train(data: Path, tmp_path: Path) -> None:
    stream = StreamConfig(scenes=0.7, sequences=0.5, earlier=1)
    phase = Phase((32,), 2, wide=2, steps=2)
    config = replace(CONFIG, phases=(phase,), stream=stream, detail_weight=0.5)
    losses: list[float] = []
    run_training(config, data, tmp_path, on_step=lambda step: losses.append(step.loss))
    assert len(losses) == 2 and np.isfinite(losses).all()


# --- weights --------------------------------------------------------------------------------------


def test_the_mean_of_networks_is_that_of_their_weights(trained: Path) -> None:
    one, made_by = load_averaged_network(trained)
    assert mean_network([str(trained)])[1] == made_by
    mean, made = mean_network([str(trained), "edge", str(trained)])
    other, theirs = mean_network(["edge"])
    shipped = {k: v for k, v in other.state_dict().items() if "tracked" not in k}
    for name in shipped.keys() - {n for n in shipped if ".blocks.0.head" in n or ".1.head" in n}:
        expected = (2 * one.state_dict()[name] + shipped[name]) / 3
        torch.testing.assert_close(mean.state_dict()[name], expected)
    assert not mean.training
    parts = [{"parts": 2} | made_by, {"parts": 1} | theirs]
    assert made == {"config": made_by["config"], "mean_of": parts}


def test_networks_of_two_shapes_have_no_mean(trained: Path, tmp_path: Path) -> None:
    Run(replace(CONFIG, network="edge-still")).save(tmp_path / "still.safetensors")
    with pytest.raises(CheckpointError, match=r"still.*'edge-still', not 'edge'"):
        mean_network([str(trained), str(tmp_path / "still.safetensors")])


def test_averaged_weights_load_for_use(trained: Path) -> None:
    network, made_by = load_averaged_network(trained)
    assert not network.training
    assert made_by["config"]["network"] == "edge"
    assert (made_by["step"], made_by["samples"]) == (4, 8)
    tensors = load_file(trained)
    for name, value in network.state_dict().items():
        assert torch.equal(value, tensors[f"average.{name}"]), name
    differing = [
        name
        for name in network.state_dict()
        if not torch.equal(tensors[f"average.{name}"], tensors[f"network.{name}"])
    ]
    assert "fusion.head.weight" in differing


def test_a_run_starts_from_the_average_of_another(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    started: dict[str, torch.Tensor] = {}
    network = build_network("edge")
    initialise(network, str(trained))
    tensors = load_file(trained)
    for name, value in network.state_dict().items():
        assert torch.equal(value, tensors[f"average.{name}"]), name
    # At a rate of nothing the run's own weights, and their average, are those it started from.
    still = replace(CONFIG, rate=1e-12, weight_decay=0.0, phases=CONFIG.phases[:1])
    started = load_file(path := run_training(still, data, tmp_path, init=str(trained)))
    assert read_checkpoint(path)[0]["init"] == str(trained)
    for part in ("network", "average"):
        name = f"{part}.fusion.head.weight"
        torch.testing.assert_close(started[name], tensors["average.fusion.head.weight"])


def test_a_run_starts_from_a_shipped_model() -> None:
    onnx = pytest.importorskip("onnx")
    from fusematte.engine.models import load_bundle

    network = build_network("edge")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialise(network, "edge")
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(load_bundle("edge").file).graph.initializer
    }
    bias = network.state_dict()["fusion.head.bias"]
    np.testing.assert_array_equal(bias, stored["network.fusion.head.bias"])
    assert not torch.equal(bias, before["fusion.head.bias"])
    with pytest.raises(CheckpointError, match="is not a network 'paper'"):
        initialise(build_network("paper"), "edge")


def test_checkpoints_of_another_kind_are_refused(trained: Path, tmp_path: Path) -> None:
    run = fresh(replace(CONFIG, rate=1.0))
    with pytest.raises(CheckpointError, match=r"another configuration \(rate: 0.003\).*--init"):
        run.load(trained)
    made_by = {key: json.dumps(value) for key, value in header(trained).items()}
    path = tmp_path / "a.safetensors"
    save_file(load_file(trained), path, made_by | {"processes": "2"})
    with pytest.raises(CheckpointError, match="made by 2 processes, not 1"):
        fresh().load(path)
    with pytest.raises(CheckpointError, match="a checkpoint of the network 'edge', not 'paper'"):
        initialise(build_network("paper"), str(trained))
    for content in (b"", b"no tensors", trained.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.safetensors: is not a readable checkpoint"):
            fresh().load(path)
    with pytest.raises(CheckpointError, match="is not a readable checkpoint"):
        fresh().load(tmp_path / "gone.safetensors")
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="its header is incomplete"):
        load_averaged_network(path)
    save_file({"average.x": torch.zeros(1)}, path, made_by)
    with pytest.raises(CheckpointError, match="its tensors do not fit"):
        load_averaged_network(path)


def test_encoder_weights(tmp_path: Path) -> None:
    network = build_network("edge")
    path = tmp_path / "weights.pth"
    path.write_bytes(b"nothing")
    with pytest.raises(
        CheckpointError, match=r"weights\.pth: has no ImageNet weights for this encoder"
    ):
        load_encoder_weights(network, str(path))
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(
        CheckpointError,
        match="has no ImageNet weights for this encoder: the weights have no tensor for",
    ):
        load_encoder_weights(network, str(path))
    with pytest.raises(CheckpointError, match=r"gone\.pth"):
        load_encoder_weights(network, str(tmp_path / "gone.pth"))
    with pytest.raises(UsageError, match=r"'densenet201'; pass torchvision's file"):
        load_encoder_weights(build_network("paper"), "imagenet")


def test_training_starts_with_what_the_front_replaces(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, path = published_lite_state(), tmp_path / "lite.pth"
    torch.save(state, path)
    monkeypatch.setattr(training, "FRONT_STEPS", 3)
    scales = []

    real = training.teach

    def teach(encoder: EfficientNetLiteEncoder, *rest: Any) -> float:  # noqa: ANN401
        missed = real(encoder, *rest)
        scales.append(encoder.front[-1].weight.detach().clone())
        return missed

    monkeypatch.setattr(training, "teach", teach)
    config = replace(CONFIG, phases=CONFIG.phases[:1], rate=1e-9)
    weights = load_file(run_training(config, data, tmp_path / "run", encoder_weights=str(path)))
    expected = {
        "blocks.0.depthwise.0.weight": state["_blocks.3._depthwise_conv.weight"],
        "front.4.weight": scales[0],
    }
    for name, value in expected.items():
        got = weights[f"average.encoder.{name}"]
        torch.testing.assert_close(got, value, rtol=1e-3, atol=1e-3)


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_as_one_that_accumulates(data: Path, tmp_path: Path) -> None:
    """The same samples in the same batches: the same weights, but for sums in another order."""
    toml = tmp_path / "two.toml"
    text = """
network = "edge"
warmup = 10
clip = 1e9
{accumulate}
[[phases]]
sizes = [64]
batch = 2
steps = 2
objective = "segmentation"
frozen = ["fusion"]
[[phases]]
sizes = [32]
batch = 2
steps = 1
"""
    toml.write_text(text.format(accumulate=""))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port",
        "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
        "-m", "fusematte", "train", "--config", str(toml), "--data", str(data),
        "--output", str(tmp_path / "both"), "--json",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    both = tmp_path / "both" / CHECKPOINT
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert any(line["event"] == "progress" and line["unit"] == "steps" for line in told)
    assert {"event": "done", "checkpoint": str(both)} in told
    from fusematte.training.config import load_config

    toml.write_text(text.format(accumulate="accumulate = 2"))
    alone = run_training(load_config(str(toml)), data, tmp_path / "alone")
    assert header(both)["samples"] == header(alone)["samples"] == 12
    assert header(both)["processes"] == 2
    ours, theirs = load_file(both), load_file(alone)
    for name, value in theirs.items():
        # Running statistics are those of the first process's batches.
        if name.startswith("network.") and value.ndim and "running" not in name:
            difference = (ours[name] - value).abs().mean() / value.abs().mean().clamp(min=1e-3)
            assert difference < 0.05, name


# --- the command ----------------------------------------------------------------------------------


def test_missing_data_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data folder"):
        run_training(CONFIG, tmp_path / "gone", tmp_path / "run")
