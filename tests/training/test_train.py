"""The training loop: exact continuation, what stops it, what it leaves behind."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from fusematte.training.data import DataError  # noqa: E402
from fusematte.training.train import (  # noqa: E402
    Phase,
    Run,
    TrainConfig,
    learning_rate,
    load_averaged_network,
    parse_phase,
    train,
)

# A warm-up longer than the run: the learning rate then depends on the step alone.
CONFIG = TrainConfig("edge", (Phase(64, 2, 2), Phase(64, 2, 2)), warmup=10)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On busy cores two threads wait for one another; and sums stay in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards: three pictures with a disc for a person, two without."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    people: dict[str, bytes] = {}
    rooms: dict[str, bytes] = {}
    for index in range(3):
        alpha = np.zeros((64, 64), np.uint8)
        cv2.circle(alpha, (24 + 8 * index, 36), 18, 255, -1, cv2.LINE_AA)
        image = rng.integers(0, 120, (64, 64, 3), np.uint8) + alpha[..., None] // 2
        people[f"p{index}.webp"] = bytes(cv2.imencode(".webp", image)[1])
        people[f"p{index}.alpha.png"] = bytes(cv2.imencode(".png", alpha)[1])
        rooms[f"r{index}.webp"] = bytes(cv2.imencode(".webp", image[::-1] // 2)[1])
    for name, files in (("train-00.tar", people), ("backgrounds-00.tar", rooms)):
        with tarfile.open(folder / name, "w") as archive:
            for file, content in files.items():
                member = tarfile.TarInfo(file)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of four steps at one go."""
    torch.set_num_threads(1)
    return train(CONFIG, data, tmp_path_factory.mktemp("run"))


def header(checkpoint: Path) -> dict[str, str]:
    with safe_open(checkpoint, "pt") as file:
        return dict(file.metadata())


def test_a_continued_run_is_the_uninterrupted_one(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    first = train(replace(CONFIG, phases=CONFIG.phases[:1]), data, tmp_path)
    assert header(first)["step"] == "2"
    half = load_file(first)
    second = load_file(train(CONFIG, data, tmp_path, resume=True))
    whole = load_file(trained)
    assert header(first)["step"] == header(trained)["step"] == "4"
    assert header(first)["samples"] == header(trained)["samples"] == "8"
    assert set(second) == set(whole)
    assert {name.split(".")[0] for name in whole} == {"network", "average", "optimizer"}
    for name, tensor in whole.items():
        assert torch.equal(second[name], tensor), name
    assert not torch.equal(half["network.fusion.head.weight"], whole["network.fusion.head.weight"])


def test_a_finished_run_is_left_alone(trained: Path, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / trained.name
    copy.write_bytes(trained.read_bytes())
    train(CONFIG, data, tmp_path, resume=True)
    assert copy.read_bytes() == trained.read_bytes()


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / trained.name
    checkpoint.write_bytes(trained.read_bytes())
    # A learning rate that no network survives.
    mad = replace(CONFIG, phases=(*CONFIG.phases, Phase(64, 2, 5)), rate=1e30)
    with pytest.raises(FloatingPointError, match=r"at step \d+.*checkpoint"):
        train(mad, data, tmp_path, resume=True)
    assert checkpoint.read_bytes() == trained.read_bytes()


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


def test_first_step_by_hand(tmp_path: Path) -> None:
    run = Run(CONFIG)
    name = "fusion.head.bias"
    before = run.network.state_dict()[name].clone()
    generator = torch.Generator().manual_seed(0)
    batch = {
        key: torch.randint(0, 256, (2, channels, 64, 64), generator=generator, dtype=torch.uint8)
        for key, channels in (("image", 3), ("alpha", 1), ("previous", 1))
    }
    assert math.isfinite(run.train_step(batch))
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


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    made_by = {"config": json.dumps({"network": "paper"}), "step": "1", "samples": "1"}
    save_file({"network.x": torch.zeros(1)}, path, made_by)
    with pytest.raises(ValueError, match="a checkpoint of 'paper', not 'edge'"):
        Run(CONFIG).load(path)


def test_missing_data_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data folder"):
        train(CONFIG, tmp_path / "gone", tmp_path / "run")


def test_learning_rate_warms_up_and_comes_down() -> None:
    config = TrainConfig("edge", (Phase(64, 1, 60), Phase(64, 1, 50)), warmup=10, final_rate=0.01)
    rates = [learning_rate(config, step) for step in range(config.steps + 1)]
    assert config.steps == 110
    assert rates[0] == pytest.approx(3e-4)
    assert rates[9] == rates[10] == pytest.approx(3e-3)
    # Half way down the cosine: the mean of the peak and a hundredth of it.
    assert rates[60] == pytest.approx((3e-3 + 3e-5) / 2)
    assert rates[110] == pytest.approx(3e-5)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_parse_phase() -> None:
    assert parse_phase("128:64:3400") == Phase(size=128, batch=64, steps=3400)
    for text in ("128:64", "a:b:c", ""):
        with pytest.raises(ValueError, match=r"unpack|invalid literal"):
            parse_phase(text)
