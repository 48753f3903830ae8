"""The table where alpha is true: the same scenes for every model, and errors told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.training.material import encode, person, write_shard

from fusematte.cli import main
from fusematte.training import true_alpha
from fusematte.training.geometry import Picture
from fusematte.training.layouts import find_sources
from fusematte.training.samples import is_held_out, load_rooms
from fusematte.training.scenes import CutOut
from fusematte.training.true_alpha import Map, Model, TrueAlpha, format_true_alpha, score_still


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(true_alpha, "HEIGHT", 72)
    monkeypatch.setattr(true_alpha, "WIDTH", 128)


def scenes() -> TrueAlpha:
    image, alpha = person(0)
    rooms = [np.full((60, 80, 3), value, np.uint8) for value in (30, 120)]
    return TrueAlpha([CutOut(image, alpha)], rooms, [])


def all_knowing(truths: Iterator[Picture], error: float = 0.0) -> Model:
    return Model(lambda _: np.clip(next(truths) / 255 + error, 0, 1), lambda: None)


def truths(table: TrueAlpha) -> Iterator[Picture]:
    """The true alphas in the order of the table: stills, clips, empty rooms."""
    yield from (alpha for _, alpha in table.stills(3))
    yield from (alpha for _, alpha in chain.from_iterable(table.clips(2, 4)))
    yield from (np.zeros(room.shape[:2], np.uint8) for room in table.rooms)


def test_the_truth_makes_no_error() -> None:
    table = scenes()
    results = table.score(all_knowing(truths(table)), stills=3, clips=2, frames=4)
    assert results["empty"] == {"rooms": 2, "median": 0.0, "p95": 0.0}
    for part in ("stills", "clips"):
        assert results[part]["mad"] == results[part]["mse"] == 0
    assert results["clips"]["dtssd"] == 0
    assert "MSE 0.00" in format_true_alpha(results)


def test_scenes_are_the_same_every_time_and_somebody_is_in_them() -> None:
    first, again = (list(scenes().stills(4)) for _ in range(2))
    for (a, alpha), (b, same) in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(alpha, same)
        assert a.shape == (72, 128, 3)
        assert alpha.max() > 200


def test_clips_move() -> None:
    for clip in scenes().clips(3, 12):
        assert any((first[1] != last[1]).any() for first, last in pairwise(clip))


def test_every_clip_and_still_starts_anew() -> None:
    events: list[str] = []

    def alpha(picture: Picture) -> Map:
        events.append("frame")
        return np.zeros(picture.shape[:2])

    scenes().score(Model(alpha, lambda: events.append("new")), stills=2, clips=1, frames=3)
    assert events == ["new", "frame"] * 2 + ["new"] + ["frame"] * 3 + ["new", "frame"] * 2


def test_the_squared_error_is_the_sum_of_its_parts() -> None:
    truth = np.zeros((120, 160))
    truth[30:90, 60:100] = 1
    truth[30:90, 59] = truth[30:90, 100] = 0.5
    rng = np.random.default_rng(0)
    scores = score_still(np.clip(truth + rng.normal(0, 0.2, truth.shape), 0, 1), truth)
    parts = [scores[f"mse_{name}"] for name in ("edge", "near", "wide", "outside", "inside")]
    assert min(parts[:4]) > 0
    assert sum(parts) == pytest.approx(scores["mse"])


def test_a_thing_taken_for_a_person_is_no_error_of_edges() -> None:
    truth = np.zeros((120, 160))
    truth[:, :40], truth[:, 40] = 1, 0.5
    taken = truth.copy()
    taken[100:110, 140:150] = 1
    scores = score_still(taken, truth)
    assert scores["mse"] == scores["mse_outside"] == pytest.approx(100 / truth.size)
    assert scores["false_foreground"] == pytest.approx(100 / (120 * (160 - 41 - 25)))
    shifted = np.roll(truth, 2, 1)
    shifted[:, :2] = 1
    scores = score_still(shifted, truth)
    assert scores["mse"] == scores["mse_edge"] > 0
    assert scores["false_foreground"] == 0


@pytest.mark.usefixtures("small_network")
def test_evaluate_prints_the_table_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, alpha = person(0)
    cutout = {"fg.png": encode(image), "alpha.png": encode(alpha), "json": b'{"source": "cutout"}'}
    write_shard(tmp_path / "val-cutouts-00.tar", [("p", cutout)])
    held_out = [name for name in map(str, range(200)) if is_held_out(name)][:2]
    room = {"webp": encode(np.full((64, 96, 3), 90, np.uint8), ".webp")}
    write_shard(tmp_path / "backgrounds-00.tar", [(name, room) for name in held_out])
    scores = tmp_path / "scores.json"
    command = ["evaluate", "edge", str(tmp_path), "--limit", "1", "--json", str(scores)]
    assert main(command) == 0
    assert "true alpha, stills" in capsys.readouterr().out
    table = json.loads(scores.read_text())["true_alpha"]
    assert table["empty"]["rooms"] == 2
    assert 0 < table["stills"]["mse"] < 1


def test_without_people_cut_out_there_is_no_table(tmp_path: Path) -> None:
    room = {"webp": encode(np.full((64, 96, 3), 90, np.uint8), ".webp")}
    write_shard(tmp_path / "backgrounds-00.tar", [(str(index), room) for index in range(60)])
    sources = find_sources(tmp_path)
    assert TrueAlpha.load(sources, load_rooms(sources, held_out_only=True)) is None
