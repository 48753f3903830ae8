"""Shards and the stream of samples, on small shards made here."""

from __future__ import annotations

import functools
import io
import itertools
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from fusematte.training.data import (  # noqa: E402
    DataError,
    Portrait,
    SampleStream,
    StreamConfig,
    find_shards,
    foreground_colour,
    load_backgrounds,
    load_portraits,
    make_portrait,
    read_shard,
    shrink,
)

Picture = NDArray[np.uint8]
Sample = tuple[str, dict[str, bytes]]


def encode(picture: Picture, suffix: str = ".png") -> bytes:
    """Lossless: webp at a quality over 100 is."""
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    bgr = picture if picture.ndim == 2 else picture[..., ::-1]
    return bytes(cv2.imencode(suffix, bgr, options)[1])


def person(seed: int, height: int = 48, width: int = 40) -> tuple[Picture, Picture]:
    """Noise with a lighter disc on it, and the disc's soft alpha."""
    y, x = np.mgrid[:height, :width]
    centre = height / 2 + seed % 5, width / 2
    alpha = np.clip((0.3 * height - np.hypot(y - centre[0], x - centre[1])) / 4 + 0.5, 0, 1)
    image = np.random.default_rng(seed).integers(0, 100, (height, width, 3))
    image = (image + 150 * alpha[..., None]).clip(0, 255)
    return image.astype(np.uint8), (255 * alpha).astype(np.uint8)


def sample(seed: int, **fields: bytes | None) -> Sample:
    """(name, files) of a good sample; ``fields`` replace files or, by None, take them out."""
    image, alpha = person(seed)
    files: dict[str, bytes | None] = {
        "webp": encode(image, ".webp"),
        "alpha.png": encode(alpha),
        "mask.png": encode((alpha > 127).astype(np.uint8) * 255),
        "json": json.dumps({"source": "test", "teacher_iou": 0.95}).encode(),
    }
    files |= {key.replace("_", "."): value for key, value in fields.items()}
    return f"p{seed:03}", {key: value for key, value in files.items() if value is not None}


def write_shard(path: Path, samples: Sequence[Sample]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, files in samples:
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@functools.cache
def portraits() -> list[Portrait]:
    return [make_portrait(*sample(seed), 64) for seed in range(4)]


def backgrounds() -> list[Picture]:
    return [np.full((50, 60, 3), value, np.uint8) for value in (40, 90)]


def stream(
    start: int, stop: int, *, seed: int = 0, config: StreamConfig | None = None
) -> SampleStream:
    return SampleStream(
        portraits(), backgrounds(), size=32, start=start, stop=stop, seed=seed, config=config
    )


# --- shards ---------------------------------------------------------------------------------------


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


def test_find_shards_sorts_and_filters(tmp_path: Path) -> None:
    for name in ("train-01.tar", "train-00.tar", "extra-00.tar", "val-00.tar", "train-00.txt"):
        (tmp_path / name).touch()
    found = find_shards(tmp_path, "train", "extra")
    assert [path.name for path in found] == ["extra-00.tar", "train-00.tar", "train-01.tar"]


def test_find_shards_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: no such data folder"):
        find_shards(tmp_path / "gone", "train")
    with pytest.raises(DataError, match=r"no train-\*\.tar or extra-\*\.tar in it"):
        find_shards(tmp_path, "train", "extra")


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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: dict[str, bytes | None]
) -> None:
    samples = [sample(0), sample(1, **broken), sample(2)]
    loaded = load_portraits([write_shard(tmp_path / "train-00.tar", samples)], 64)
    assert [portrait.name for portrait in loaded] == ["p000", "p002"]
    printed = capsys.readouterr().out
    assert printed.startswith("skipped: train-00.tar: p001: ")
    assert printed.count("\n") == 1


def test_load_backgrounds_shrinks_them(tmp_path: Path) -> None:
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[..., 2] = 200
    shard = write_shard(
        tmp_path / "backgrounds-00.tar",
        [("a", {"webp": encode(picture, ".webp")}), ("b", {"webp": b"no"}), ("c", {})],
    )
    (loaded,) = load_backgrounds([shard], 45)  # the bad ones are skipped
    assert loaded.shape == (30, 45, 3)
    assert (loaded == (0, 0, 200)).all()


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


# --- the stream -----------------------------------------------------------------------------------


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("image", "alpha", "previous"))


def test_samples_are_bytes_of_one_size() -> None:
    for item in (stream(0, 6)[index] for index in range(6)):
        assert {key: tuple(value.shape) for key, value in item.items()} == {
            "image": (3, 32, 32),
            "alpha": (1, 32, 32),
            "previous": (1, 32, 32),
        }
        assert {value.dtype for value in item.values()} == {torch.uint8}


def test_a_sample_depends_on_its_number_and_the_seed() -> None:
    whole = stream(0, 12)
    assert len(whole) == 12
    for number in (11, 3, 7):  # in any order, from any stream that has it
        assert same(whole[number], whole[number])
        assert same(whole[number], stream(number, 12)[0])
    assert not same(whole[3], whole[4])
    assert not same(whole[3], stream(0, 12, seed=1)[3])


def test_a_split_stream_is_the_whole_stream() -> None:
    first, second = stream(0, 5), stream(5, 12)
    parts = [*(first[i] for i in range(5)), *(second[i] for i in range(7))]
    whole = stream(0, 12)
    assert len(parts) == len(whole)
    assert all(same(part, whole[index]) for index, part in enumerate(parts))


def test_each_epoch_shows_every_portrait_once() -> None:
    samples = stream(0, 12)
    for epoch in range(3):
        names = [samples._portrait(4 * epoch + index).name for index in range(4)]
        assert sorted(names) == ["p000", "p001", "p002", "p003"]


def test_negatives_have_nobody_in_them() -> None:
    samples = stream(0, 20, config=StreamConfig(negative=1, previous_foreign=0))
    for item in (samples[index] for index in range(20)):
        assert item["alpha"].max() == 0
        assert item["previous"].max() == 0
        assert item["image"].float().std() < 30  # a flat background, whatever was done to it


def test_a_foreign_previous_alpha_may_come_with_a_negative() -> None:
    samples = stream(0, 20, config=StreamConfig(negative=1, previous_foreign=1))
    assert all(samples[index]["alpha"].max() == 0 for index in range(20))
    assert any(samples[index]["previous"].max() > 0 for index in range(20))


def test_people_are_in_the_others_and_may_be_dropped_from_the_previous() -> None:
    config = StreamConfig(negative=0, previous_foreign=0, previous_dropped=1)
    samples = stream(0, 20, config=config)
    assert all(samples[index]["alpha"].max() > 128 for index in range(20))
    assert all(samples[index]["previous"].max() == 0 for index in range(20))


def test_the_previous_alpha_resembles_the_alpha() -> None:
    config = StreamConfig(negative=0, previous_foreign=0, previous_dropped=0)
    made = stream(0, 40, config=config)
    samples = [made[index] for index in range(40)]
    alike = [
        (item["alpha"].float() - item["previous"].float()).abs().mean().item() for item in samples
    ]
    strangers = [
        (a["alpha"].float() - b["previous"].float()).abs().mean().item()
        for a, b in itertools.pairwise(samples)
    ]
    assert 0 < np.mean(alike) < 0.6 * np.mean(strangers)


def test_real_motion_moves_with_its_picture() -> None:
    name, files = sample(0)
    real = make_portrait(name, files | {"prev.png": files["alpha.png"]}, 64)
    config = StreamConfig(negative=0, previous_foreign=0, previous_dropped=0)
    samples = SampleStream([real], backgrounds(), size=32, start=0, stop=8, config=config)
    for item in (samples[index] for index in range(8)):
        assert torch.equal(item["alpha"], item["previous"])


def test_real_shards_load() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no data set here")
    for _, (name, files) in zip(range(4), read_shard(folder / "val-00.tar"), strict=False):
        portrait = make_portrait(name, files, 128)
        assert max(portrait.alpha.shape) == 128
        assert portrait.alpha.max() > 128
