"""The evaluation: what it measures, what it prints, what it refuses."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.training.material import encode, person, sample, write_shard

from fusematte.cli import main
from fusematte.engine.frame import Matte
from fusematte.engine.matting.matter import Matter
from fusematte.training.evaluate import (
    FG_BG,
    FUSION,
    RAW,
    REFINED,
    STILL,
    Means,
    bracketed,
    half_way,
    make_case,
)
from fusematte.training.explain import LINE, explain, implicit_trimap, widest_gap
from fusematte.training.samples import is_held_out


def matte(foreground: list[float], background: list[float], beta: float = 0.5) -> Matte:
    f, b = (np.array([values], np.float32) for values in (foreground, background))
    return Matte(
        alpha=beta * f + (1 - beta) * (1 - b),
        foreground=f,
        background=b,
        beta=np.full_like(f, beta),
        color=np.zeros((3, *f.shape), np.float32),
        pts=0,
        time_base=Fraction(1),
    )


def test_the_decoders_alone_meet_half_way() -> None:
    np.testing.assert_allclose(half_way(matte([1, 0.8, 0], [0, 0.6, 1], beta=1)), [[1, 0.6, 0]])


def test_bracketing_is_counted_in_the_transition() -> None:
    decoders = matte([1, 0.8, 0.8, 0.8, 0.1], [0, 0.7, 0.7, 0.7, 0.9])
    # Between 0.3 and 0.8: of the soft pixels 0.5 and 0.31 are, 0.9 is not; solid ones do not count.
    assert bracketed(decoders, np.array([[1, 0.5, 0.31, 0.9, 0]])) == pytest.approx(2 / 3)
    assert np.isnan(bracketed(decoders, np.array([[1.0, 1, 1, 0, 0]])))


def test_the_implicit_trimap_is_gray_where_neither_is_sure() -> None:
    decoders = matte([1, 0.99, 0.6, 0.01, 0.9], [0, 0.02, 0.3, 0.99, 0.9])
    assert implicit_trimap(decoders).tolist() == [[255, 255, 128, 0, 128]]


def test_the_line_lies_where_the_decoders_differ_most() -> None:
    decoders = matte([0.5] * 200, [0.5] * 200)
    gap = np.zeros((4, 200), np.float32)
    gap[2, 100:140] = 0.5
    parts = {"alpha": gap, "foreground": gap + 0.5, "background": gap * 0 + 0.5}
    wide = Matte(**(vars(decoders) | parts))
    row, column = widest_gap(wide)
    assert row == 2 and column <= 100 and column + LINE >= 140


def test_means_leave_out_what_is_not_there() -> None:
    means = Means()
    for value in (1.0, float("nan"), 3.0):
        means.add({"mad": value, "mse": 2.0}, "a", "b")
    assert means.table() == {"a": {"b": {"mad": 2.0, "mse": 2.0}}}


def test_a_case_needs_its_alpha_at_its_size() -> None:
    name, files = sample(1)
    case = make_case(name, files, "somewhere")
    assert (case.source, case.alpha.shape) == ("test", case.foreground.shape[:2])
    np.testing.assert_array_equal(case.alpha, person(1)[1])
    from fusematte.training.errors import DataError

    with pytest.raises(DataError, match=r"p001: no alpha\.png"):
        make_case(*sample(1, alpha_png=None), "x")
    with pytest.raises(DataError, match="differ in size"):
        make_case(*sample(1, mask_png=encode(person(0, 20, 20)[1])), "x")


def data_folder(folder: Path) -> Path:
    """Two people, one damaged sample and two rooms that training would keep out."""
    people = [sample(0), sample(1), sample(2, alpha_png=b"no")]
    write_shard(folder / "val-00.tar", people)
    names = [name for name in (f"room{i}" for i in range(200)) if is_held_out(name)][:2]
    room = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    write_shard(
        folder / "backgrounds-00.tar", [(n, {"webp": encode(room, ".webp")}) for n in names]
    )
    return folder


@pytest.mark.usefixtures("small_network")
def test_the_whole_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = data_folder(tmp_path)
    figures, sheet = tmp_path / "figures.json", tmp_path / "sheet.png"
    command = ["evaluate", "edge", str(data), "-q", "--json", str(figures), "--sheet", str(sheet)]
    assert main([*command, "--fusion-model", "edge"]) == 0
    said = capfd.readouterr()
    assert "skipped: val-00.tar: p002: not a picture" in said.err
    results = json.loads(figures.read_text())
    assert results["skipped"] == 1
    assert results["people"]["all"]["samples"] == results["people"]["test"]["samples"] == 2
    assert set(results["rows"]) == {FG_BG, FUSION, RAW, REFINED, STILL}
    # The model of the second step is the same one here: its raw alpha too.
    assert results["rows"][STILL] != results["rows"][REFINED]
    assert results["rows"][FUSION] == results["rows"][RAW] != results["rows"][REFINED]
    for row in results["rows"].values():
        assert set(row) == {"whole", "transition"}
        assert row["whole"]["sad"] >= row["transition"]["sad"] >= 0
    assert results["rooms"]["samples"] == results["backgrounds"]["samples"] == 2
    assert set(results["moving"]) == {"with the frame before", "each frame by itself"}
    assert 0 <= results["composed"][REFINED]["mse"] <= 1
    for part in (
        FG_BG,
        "transition conn",
        "IoU",
        "dtSSD",
        "test: 2 pictures",
        "between 1 - B and F",
    ):
        assert part in said.out
    picture = cv2.imread(str(sheet))
    assert picture is not None and picture.shape[0] == picture.shape[1] // 4


@pytest.mark.usefixtures("small_network")
def test_people_cut_out_are_scored_over_rooms(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image, alpha = person(3)
    name, files = sample(3, webp=None)
    write_shard(tmp_path / "val-00.tar", [(name, files | {"fg.png": encode(image)})])
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    for index in range(2):
        cv2.imwrite(str(rooms / f"{index}.png"), np.full((30, 40, 3), 90, np.uint8))
    figures, sheet = tmp_path / "figures.json", tmp_path / "sheet.png"
    command = ["evaluate", "-q", "edge", str(tmp_path)]
    assert main([*command, "--json"]) == 3
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["event"] == "error"
    command = [*command, "--json", str(figures)]
    assert main(command) == 3
    assert "cut-outs need pictures of rooms" in capfd.readouterr().err
    assert not figures.exists()
    assert main([*command, "--sheet", str(sheet), "--backgrounds", str(rooms)]) == 0
    results = json.loads(figures.read_text())
    assert results["people"]["all"]["samples"] == 1
    assert results["composed"] == {}  # it is composed in the rows already
    # Whoever names rooms says that they are new to the model: all are used.
    assert results["rooms"] == {"samples": 2, "unseen": True}
    shown = cv2.imread(str(sheet))
    assert shown is not None
    top, left = (192 - alpha.shape[0]) // 2, (192 - alpha.shape[1]) // 2
    tile = shown[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    assert (tile[alpha == 0] == 90).all()


def test_explanations_show_the_maps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], small_model: str
) -> None:
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), person(0, 96, 128)[0])
    folder = tmp_path / "explained"
    assert main(["evaluate", small_model, "--explain", str(path), "-o", str(folder)]) == 0
    assert str(folder / "a.png") in capfd.readouterr().out
    sheet = cv2.imread(str(folder / "a.png"))
    assert sheet is not None
    with Matter(small_model) as matter:
        again = explain(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), matter)  # type: ignore[arg-type]
    np.testing.assert_array_equal(sheet[..., ::-1], again)


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["edge"], 2, "give DATA"),
        (["edge", "{}/gone"], 3, "no such data folder"),
        (["edge", "{}"], 3, "neither shards"),
        (["nosuch", "{}"], 7, "nosuch"),
        (["edge", "{}", "--limit", "0"], 2, "--limit"),
        (["edge", "--explain", "{}/a.jpg"], 2, "--output-dir"),
        (["edge", "--explain", "{}/a.jpg", "-o", "{}/out"], 3, "a.jpg"),
        (["edge", "{}", "--backend", "nosuch"], 8, "nosuch"),
    ],
)
def test_bad_requests(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    complaint: str,
) -> None:
    assert main(["evaluate", "-q", *(part.format(tmp_path) for part in arguments)]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("fusematte: ") and complaint in line


def test_data_without_test_pictures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "train-00.tar", [sample(0)])
    assert main(["evaluate", "-q", "edge", str(tmp_path)]) == 3
    assert "no test pictures" in capfd.readouterr().err
    write_shard(tmp_path / "val-00.tar", [sample(0, webp=b"no")])
    assert main(["evaluate", "-q", "edge", str(tmp_path)]) == 3
    assert "none of its pictures is usable" in capfd.readouterr().err
