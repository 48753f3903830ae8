"""Samples: shards, what is decoded from them, and what is skipped."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.training.material import encode, person, sample, write_shard

from fusematte.training.errors import DataError
from fusematte.training.samples import (
    Portrait,
    Source,
    foreground_colour,
    is_held_out,
    load_material,
    load_rooms,
    make_portrait,
    read_shard,
    shard_sources,
    shrink,
)


def source(shard: Path, kind: str = "people") -> Source:
    return Source(shard.name, kind, "train", lambda: read_shard(shard))


def load_portraits(shard: Path) -> list[Portrait]:
    return load_material([source(shard)], 64).portraits


def test_read_shard_groups_by_the_name_up_to_its_first_dot(tmp_path: Path) -> None:
    samples = [
        ("a", {"webp": b"1", "alpha.png": b"2"}),
        ("b", {"json": b"3"}),
        ("c.d", {"x": b"4"}),
    ]
    shard = write_shard(tmp_path / "s.tar", samples)
    assert list(read_shard(shard)) == [*samples[:2], ("c", {"d.x": b"4"})]


def test_read_shard_of_tars_with_folders_in_their_names(tmp_path: Path) -> None:
    # "tar cf s.tar ./*" puts "./" before every name; a dot in a folder's name parts nothing.
    samples = [("./a", {"webp": b"1", "json": b"2"}), ("v1.0/b", {"webp": b"3"})]
    shard = write_shard(tmp_path / "s.tar", samples)
    with tarfile.open(shard, "a") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert list(read_shard(shard)) == samples


def test_read_shard_of_an_empty_tar(tmp_path: Path) -> None:
    assert list(read_shard(write_shard(tmp_path / "s.tar", []))) == []


def test_shards_are_known_by_their_names(tmp_path: Path) -> None:
    names = ("val-00.tar", "train-01.tar", "train-00.tar", "extra-00.tar", "backgrounds-00.tar")
    names += (
        "val-cutouts-00.tar",
        "train-cutouts-00.tar",
        "extra-cutouts-00.tar",
        "objects-00.tar",
    )
    for name in (*names, "train-00.txt", "other-00.tar"):
        (tmp_path / name).touch()
    assert [(s.name, s.kind, s.split) for s in shard_sources(tmp_path)] == [
        ("train-00.tar", "people", "train"),
        ("train-01.tar", "people", "train"),
        ("train-cutouts-00.tar", "cutouts", "train"),
        ("extra-00.tar", "people", "train"),
        ("extra-cutouts-00.tar", "cutouts", "train"),
        ("val-00.tar", "people", "val"),
        ("val-cutouts-00.tar", "cutouts", "val"),
        ("backgrounds-00.tar", "backgrounds", "train"),
        ("objects-00.tar", "objects", "train"),
    ]


def test_a_tar_that_breaks_off_gives_what_came_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = write_shard(tmp_path / "train-00.tar", [sample(seed) for seed in range(6)])
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    loaded = load_portraits(shard)
    assert 1 <= len(loaded) < 6
    assert "train-00.tar: the tar cannot be read after" in caplog.text.replace(str(tmp_path), "")


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train-00.tar").write_bytes(b"no tar at all")
    with pytest.raises(DataError, match="no portraits: none of 1 samples could be used"):
        load_portraits(tmp_path / "train-00.tar")


def test_people_cut_out_have_no_photograph() -> None:
    image, alpha = person(2)
    name, files = sample(2, webp=None)
    portrait = make_portrait(name, files | {"fg.png": encode(image)}, 64)
    assert portrait.image is None
    np.testing.assert_array_equal(portrait.foreground, image)
    np.testing.assert_array_equal(portrait.alpha, alpha)


def test_a_portrait_knows_its_source() -> None:
    name, files = sample(2)
    assert make_portrait(name, files | {"json": b'{"source": "groups"}'}, 64).source == "groups"


def test_one_room_in_twenty_is_kept_out_of_training(tmp_path: Path) -> None:
    names = [f"room{index}" for index in range(400)]
    held_out = [name for name in names if is_held_out(name)]
    assert [name for name in names if is_held_out(f"packed.tar/{name}")] == held_out
    assert 8 <= len(held_out) <= 36  # 20 expected, standard deviation 4.4
    room = {"webp": encode(np.full((8, 8, 3), 9, np.uint8), ".webp")}
    chosen = [*held_out[:2], *[name for name in names if name not in held_out][:3]]
    shard = source(
        write_shard(tmp_path / "b.tar", [(name, room) for name in chosen]), "backgrounds"
    )
    assert len(load_material([shard], 64).rooms) == 3
    assert [len(load_rooms([shard], held_out_only=only)) for only in (True, False)] == [2, 5]


def test_make_portrait_decodes_what_the_sample_holds() -> None:
    image, alpha = person(3)
    portrait = make_portrait(*sample(3), 64)
    np.testing.assert_array_equal(portrait.image, image)
    np.testing.assert_array_equal(portrait.alpha, alpha)
    assert portrait.previous is None
    assert portrait.foreground.shape == image.shape
    previous = make_portrait(*sample(3, prev_png=encode(alpha // 2)), 64).previous
    assert previous is not None
    np.testing.assert_array_equal(previous, alpha // 2)


@pytest.mark.parametrize(
    ("agreement", "file"), [(0.79, "mask.png"), (0.8, "alpha.png"), (None, "alpha.png")]
)
def test_the_human_mask_wins_over_a_doubtful_teacher(agreement: float | None, file: str) -> None:
    name, files = sample(1, json=json.dumps({"teacher_iou": agreement}).encode())
    expected = cv2.imdecode(np.frombuffer(files[file], np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(make_portrait(name, files, 64).alpha, expected)


def test_a_doubtful_teacher_without_a_mask_is_all_there_is() -> None:
    name, files = sample(1, mask_png=None, json=b'{"teacher_iou": 0.1}')
    np.testing.assert_array_equal(make_portrait(name, files, 64).alpha, person(1)[1])


@pytest.mark.parametrize(
    "broken",
    [
        {"webp": None}, {"webp": b"text"}, {"webp": b""}, {"alpha_png": None}, {"alpha_png": b"no"},
        {"alpha_png": encode(person(0, 20, 20)[1])}, {"prev_png": b"no"},
        {"prev_png": encode(person(0, 20, 20)[1])},
        {"json": b"{"}, {"json": b"[]"},
    ],
    ids=lambda broken: f"{next(iter(broken))}={next(iter(broken.values()))!r:.12}",
)  # fmt: skip
def test_bad_samples_are_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: dict[str, bytes | None]
) -> None:
    samples = [sample(0), sample(1, **broken), sample(2)]
    loaded = load_portraits(write_shard(tmp_path / "train-00.tar", samples))
    assert [portrait.name for portrait in loaded] == ["p000", "p002"]
    skipped, counted = caplog.messages
    assert skipped.startswith("skipped: train-00.tar: p001: ")
    assert counted == "1 samples skipped, 2 portraits loaded"


def test_bad_rooms_are_skipped(tmp_path: Path) -> None:
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[..., 2] = 200
    shard = write_shard(
        tmp_path / "backgrounds-00.tar",
        [("a", {"webp": encode(picture, ".webp")}), ("b", {"webp": b"no"}), ("c", {})],
    )
    (loaded,) = load_material([source(shard, "backgrounds")], 45).rooms
    assert loaded.shape == (60, 90, 3)
    assert (loaded == (0, 0, 200)).all()


@pytest.mark.parametrize(
    ("fields", "exact"),
    [
        ({}, False),  # the json tells of a teacher
        ({"json": None}, True),
        ({"json": b'{"exact": true}'}, True),
        ({"webp": None, "fg_png": encode(person(0)[0])}, True),
    ],
)
def test_a_teachers_alpha_is_not_taken_for_true(
    fields: dict[str, bytes | None], exact: bool
) -> None:
    portrait = make_portrait(*sample(0, **fields), 64)
    assert portrait.exact is portrait.cutout.exact is exact


def test_shrink_never_enlarges() -> None:
    picture = person(0)[0]
    assert shrink(picture, 48) is picture
    assert shrink(picture, 24).shape == (24, 20, 3)
    assert shrink(np.zeros((1, 400, 3), np.uint8), 40).shape == (1, 40, 3)


def test_foreground_colour_unmixes_the_wall() -> None:
    alpha = person(0)[1]
    weight = alpha[..., None] / 255
    image = (weight * (200, 100, 50) + (1 - weight) * np.array([0, 0, 250])).astype(np.uint8)
    edge = alpha > 80
    error = np.abs(foreground_colour(image, alpha)[edge].astype(int) - (200, 100, 50))
    before = np.abs(image[edge].astype(int) - (200, 100, 50))
    assert error.max() < before.max() / 3


def test_real_shards_load() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no data set here")
    for _, (name, files) in zip(range(4), read_shard(folder / "val-00.tar"), strict=False):
        portrait = make_portrait(name, files, 128)
        assert max(portrait.alpha.shape) == 128
        assert portrait.alpha.max() > 128
