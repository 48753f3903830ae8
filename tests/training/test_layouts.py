"""The folders of public data sets, and what ``train prepare`` makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.training.material import Picture, encode, person, write_shard

from fusematte.cli import main
from fusematte.training.errors import DataError
from fusematte.training.layouts import LAYOUTS, Part, background_source, find_sources, object_source
from fusematte.training.samples import (
    Source,
    load_material,
    load_things,
    make_background,
    make_portrait,
    read_shard,
    shard_sources,
)


def write(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(picture, path.suffix))


def person_of(part: Part, index: int) -> tuple[Picture, Picture]:
    """Frames of a video have one size, pictures have their own."""
    return person(index, 40, 32 if part.video else 32 + index)


def make_set(root: Path, name: str, count: int = 3) -> Path:
    """A data set in its own layout: two clips of frames where it has videos."""
    for part in LAYOUTS[name]:
        for index in range(count):
            image, alpha = person_of(part, index)
            stem = f"{index // 2:04}/{index % 2:05}" if part.video else f"pic.{index}"
            write(root / part.pictures / f"{stem}.jpg", image)
            write(root / part.alphas / f"{stem}.png", alpha)
    return root


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("below", [".", "data/set"])
def test_every_layout_is_found_and_read(tmp_path: Path, name: str, below: str) -> None:
    make_set(tmp_path / below, name)
    sources = find_sources(tmp_path, frame_step=1)
    assert [(s.name, s.split) for s in sources] == [
        (f"{name} {part.pictures}", part.split) for part in LAYOUTS[name]
    ]
    assert {s.kind for s in sources} == {"people"}
    for source, part in zip(sources, LAYOUTS[name], strict=True):
        portraits = load_material([source], 64).portraits
        assert len(portraits) == 3
        for index, portrait in enumerate(portraits):
            np.testing.assert_array_equal(portrait.alpha, person_of(part, index)[1])
            assert (portrait.image is None) == part.cut_out
            assert "." not in portrait.name


def test_video_frames_know_the_frame_before(tmp_path: Path) -> None:
    make_set(tmp_path, "VideoMatte240K", count=4)
    train, _ = find_sources(tmp_path, frame_step=1)
    portraits = [make_portrait(name, files, 64) for name, files in train.read()]
    names = [portrait.name for portrait in portraits]
    assert names == [f"{clip:04}/{frame:05}" for clip in (0, 1) for frame in (0, 1)]
    # The first frame of a clip has none before it, though another clip's frame comes before it.
    assert [portrait.previous is None for portrait in portraits] == [True, False, True, False]
    every_other, _ = find_sources(tmp_path, frame_step=3)
    assert [name for name, _ in every_other.read()] == ["0000/00000", "0001/00001"]


def test_a_frames_previous_alpha_is_its_neighbours(tmp_path: Path) -> None:
    for index in range(2):
        image, alpha = person(index)
        write(tmp_path / f"train/fgr/0000/{index:05}.png", image)
        write(tmp_path / f"train/pha/0000/{index:05}.png", alpha)
    (train,) = find_sources(tmp_path, frame_step=1)
    _, second = (make_portrait(name, files, 64) for name, files in train.read())
    assert second.previous is not None
    np.testing.assert_array_equal(second.previous, person(0)[1])


def test_bad_files_of_a_data_set_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_set(tmp_path, "PPM-100")
    (tmp_path / "matte/pic.0.png").unlink()
    (tmp_path / "image/pic.1.jpg").write_text("no picture")
    write(tmp_path / "image/other.jpg", person(0)[0])
    write(tmp_path / "matte/other.png", person(0, 20, 20)[1])
    assert len(load_material(find_sources(tmp_path), 64).portraits) == 1
    text = caplog.text
    for complaint in ("pic_0: no alpha.png", "pic_1: not a picture", "other: picture", "3 samples"):
        assert complaint in text


def test_wrong_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: no such data folder"):
        find_sources(tmp_path / "gone")
    with pytest.raises(DataError, match="gone: no such data folder"):
        background_source(tmp_path / "gone")
    with pytest.raises(DataError, match="contains no picture"):
        background_source(tmp_path)
    write(tmp_path / "rooms/a.jpg", person(0)[0])
    with pytest.raises(DataError, match=r"neither shards .*P3M-10k.*--backgrounds"):
        find_sources(tmp_path)


def test_a_folder_of_rooms(tmp_path: Path) -> None:
    for name in ("a.jpg", "below/b.PNG", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(person(0)[0], path.suffix.lower()) if "txt" not in name else b"x")
    source = background_source(tmp_path)
    assert [name for name, _ in source.read()] == ["a", "below/b"]
    assert all(make_background(*sample, 64).shape == (48, 40, 3) for sample in source.read())


def test_a_folder_of_things(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, alpha = person(0)
    bgra = np.dstack([image[..., ::-1], alpha])
    (tmp_path / "vase.png").write_bytes(bytes(cv2.imencode(".png", bgra)[1]))
    write(tmp_path / "whole.png", image)
    (thing,) = load_things([object_source(tmp_path)])
    np.testing.assert_array_equal(thing.foreground, image)
    np.testing.assert_array_equal(thing.alpha, alpha)
    assert "whole: is not a cut-out: it has no alpha channel" in caplog.messages[0]
    assert load_things([]) == []


# --- prepare --------------------------------------------------------------------------------------


def test_prepare_checks_and_shards(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = make_set(tmp_path / "P3M-10k", "P3M-10k")
    (root / "train/blurred_image/pic.1.jpg").write_text("no picture")
    write(root / "train/mask/pic.2.png", np.zeros((40, 34), np.uint8))
    write(tmp_path / "rooms/a.jpg", np.full((100, 50, 3), 80, np.uint8))
    out = tmp_path / "shards"
    command = ["train", "prepare", "--data", str(root), "--backgrounds", str(tmp_path / "rooms")]
    assert main([*command, "-o", str(out), "--long-side", "32"]) == 0
    said = capfd.readouterr().out
    assert "1 train, 6 val, 1 backgrounds in 3 shards, 2 samples skipped" in said
    assert "pic_1: not a picture" in caplog.text and "pic_2: its alpha is empty" in caplog.text
    assert sorted(path.name for path in out.iterdir()) == [
        "backgrounds-00000.tar", "train-00000.tar", "val-00000.tar",
    ]  # fmt: skip
    (train,) = [s for s in shard_sources(out) if s.name.startswith("train")]
    (portrait,) = load_material([train], 64).portraits
    assert max(portrait.alpha.shape) == 32
    assert portrait.name == "P3M-10k/pic_0"
    expected = cv2.resize(person(0, 40, 32)[1], (26, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(portrait.alpha, expected)
    ((_, files),) = read_shard(out / "backgrounds-00000.tar")
    assert make_background("a", files, 64).shape == (32, 16, 3)


def test_prepare_keeps_video_and_cut_outs(tmp_path: Path) -> None:
    make_set(tmp_path / "set", "VideoMatte240K", count=2)
    out = tmp_path / "shards"
    command = ["train", "-q", "prepare", "--data", str(tmp_path / "set"), "-o", str(out)]
    assert main([*command, "--frame-step", "1"]) == 0
    portraits = [make_portrait(*one, 64) for one in read_shard(out / "train-00000.tar")]
    assert [portrait.image is None for portrait in portraits] == [True, True]
    assert portraits[1].previous is not None
    np.testing.assert_array_equal(portraits[1].previous, portraits[0].alpha)


def test_a_pack_has_what_training_needs_in_the_space_it_gets(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    image, alpha = rng.integers(0, 256, (300, 200, 3), np.uint8), person(0, 300, 200)[1]
    people = {"webp": encode(image, ".webp"), "alpha.png": encode(alpha), "mask.png": encode(alpha)}
    doubtful = people | {"json": b'{"teacher_iou": 0.5}', "mask.png": encode(255 - alpha)}
    cutout = {"fg.webp": encode(image, ".webp"), "alpha.png": encode(alpha)}
    thing = {"webp": bytes(cv2.imencode(".webp", np.dstack([image[..., ::-1], alpha]))[1])}
    shards = {
        "train": [("a", people), ("b", doubtful)], "train-cutouts": [("c", cutout)],
        "val": [("d", people)], "backgrounds": [("e", {"webp": encode(image, ".webp")})],
        "objects": [("f", thing)],
    }  # fmt: skip
    for stem, samples in shards.items():
        write_shard(tmp_path / f"{stem}-00.tar", samples)
    out = tmp_path / "pack"
    command = ["train", "prepare", "--data", str(tmp_path), "-o", str(out), "--pack", "0.12"]
    assert main([*command, "--json"]) == 0
    files = sorted(out.iterdir())
    assert [file.name.removesuffix("-00000.tar.gz") for file in files] == [
        "backgrounds", "objects", "train", "train-cutouts",
    ]  # fmt: skip
    assert sum(file.stat().st_size for file in files) <= 120_000
    material = load_material(find_sources(out), 448)
    done = json.loads(capfd.readouterr().out.splitlines()[-1])
    stems = {"train": 2, "train-cutouts": 1, "backgrounds": 1, "objects": 1}
    assert done["event"] == "done" and done["samples"] == stems
    assert len(material.portraits) == 2
    assert max(material.cutouts[0].size) < 300
    assert material.things[0].alpha.min() == 0
    kept = {name: set(fields) for name, fields in read_shard(out / "train-00000.tar.gz")}
    assert kept == {
        "train-00.tar/a": {"webp", "alpha.png"},
        "train-00.tar/b": {"webp", "alpha.png", "mask.png", "json"},
    }
    command[-1] = "0.001"
    assert main(command) == 3
    assert "do not fit in 0.001 MB" in capfd.readouterr().err


def test_a_part_of_a_large_set_tells_how_far_to_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusematte.training import prepare

    monkeypatch.setattr(prepare, "ESTIMATED", 3)
    noise = np.random.default_rng(0).integers(0, 255, (9, 240, 320, 3), np.uint8)
    alpha = encode(np.full((240, 320), 255, np.uint8))
    samples = [
        (f"{i}", {"webp": encode(one, ".webp"), "alpha.png": alpha}) for i, one in enumerate(noise)
    ]
    write_shard(tmp_path / "train-00.tar", samples)
    sources = find_sources(tmp_path)
    whole = prepare.prepare(sources, tmp_path / "whole", prepare.Storage(448, 75, lean=True))
    written: list[int] = []
    limit = 0.6 * whole.megabytes
    packed, side = prepare.pack(sources, tmp_path / "out", limit, written.append)
    assert 0.3 * limit < packed.megabytes <= limit
    assert side < 320
    assert packed.samples == {"train": 9}
    assert written == [*range(1, 10)]  # the whole set was written once


def test_large_sets_become_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusematte.training import prepare

    monkeypatch.setattr(prepare, "SHARD_SAMPLES", 2)
    make_set(tmp_path, "PPM-100", count=5)
    done = prepare.prepare(find_sources(tmp_path), tmp_path / "out", prepare.Storage(64))
    assert [path.name for path in done.shards] == [f"val-{i:05}.tar" for i in range(3)]
    assert sum(len(list(read_shard(path))) for path in done.shards) == 5


def test_prepare_leaves_nothing_half_done(tmp_path: Path) -> None:
    from fusematte.training.prepare import Storage, prepare

    good = find_sources(make_set(tmp_path / "set", "PPM-100"))[0]

    def broken() -> object:
        yield from good.read()
        raise KeyboardInterrupt

    sources = [Source("x", "people", "val", broken)]  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        prepare(sources, tmp_path / "out", Storage(64))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        ([], 2, "--data DIR"),
        (["--data", "{}/gone"], 2, "--output DIR"),
        (["--data", "{}/gone", "-o", "{}/out"], 3, "gone: no such data folder"),
        (["--data", "{}", "-o", "{}/out"], 3, "neither shards"),
        (["--data", "{}/set", "-o", "{}/out"], 2, "no people to train on"),
        (["--data", "{}/people", "-o", "{}/out"], 2, "no rooms (--backgrounds)"),
        (["--data", "{}", "-o", "{}/out", "--config", "huge"], 2, "no configuration 'huge'"),
        (["--data", "{}", "-o", "{}/out", "--workers", "-1"], 2, "--workers"),
        (["--data", "{}", "-o", "{}/out", "--resume", "--init", "edge"], 2, "--resume"),
        (
            ["--data", "{}/people", "--backgrounds", "{}", "--objects", "{}/gone", "-o", "{}/out"],
            3,
            "gone: no such data folder",
        ),
        (["prepare", "--data", "{}/set", "-o", "{}/file/out"], 5, "cannot be written"),
        (["prepare", "--data", "{}/empty", "-o", "{}/out"], 3, "could be used"),
        (["prepare", "--data", "{}/set", "-o", "{}/out", "--long-side", "3"], 2, "--long-side"),
        (["prepare", "--data", "{}/set", "-o", "{}/out", "--pack", "0"], 2, "--pack"),
        (["--data", "{}", "-o", "{}/out", "--minutes", "0"], 2, "--minutes"),
    ],
)
def test_bad_requests(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    complaint: str,
) -> None:
    (tmp_path / "file").touch()
    if "{}/set" in arguments:
        make_set(tmp_path / "set", "PPM-100")
    if "{}/people" in arguments:
        make_set(tmp_path / "people", "P3M-10k")
    if "{}/empty" in arguments:
        write(tmp_path / "empty/image/a.jpg", person(0)[0])
        (tmp_path / "empty/matte").mkdir()
    assert main(["train", *(part.format(tmp_path) for part in arguments)]) == code
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("fusematte: ") and complaint in line


def test_training_without_torch_names_the_extra(tmp_path: Path) -> None:
    make_set(tmp_path / "set", "P3M-10k")
    write(tmp_path / "rooms/a.jpg", person(0)[0])
    code = (
        "import sys; sys.modules['torch'] = None; from fusematte.cli import main; "
        f"sys.exit(main(['train', '--data', {str(tmp_path / 'set')!r}, "
        f"'--backgrounds', {str(tmp_path / 'rooms')!r}, '-o', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "fusematte: training needs torch; pip install 'fusematte[train]'\n"
