"""GIF, WebP and APNG: as many pictures as frames, at their times, with their alpha, for ever."""

from __future__ import annotations

import logging
from pathlib import Path

import av
import numpy as np
import pytest
from tests.helpers import content, make_clip, transcode

from fusematte.engine.errors import FuseMatteError, UsageError
from fusematte.engine.frame import Frame
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.writer import Writer

Image = pytest.importorskip("PIL.Image")
ImageSequence = pytest.importorskip("PIL.ImageSequence")

KINDS = [".gif", ".webp", ".apng"]
FRAMES, WIDTH, HEIGHT = 12, 64, 48


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", frames=FRAMES, audio=True, options={"crf": "1"})


def shown(path: Path) -> list[tuple[np.ndarray, float]]:
    """Another library's view: RGBA pictures, and how long each is seen, in ms."""
    with Image.open(path) as image:
        assert image.info.get("loop", 0) == 0  # for ever
        return [
            (np.asarray(picture.convert("RGBA")), float(picture.info["duration"]))
            for picture in ImageSequence.Iterator(image)
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_and_times_are_kept(clip: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / f"out{kind}"
    transcode(clip, output)
    pictures = shown(output)
    assert len(pictures) == FRAMES
    with av.open(str(clip)) as container:
        wanted = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for (picture, duration), frame in zip(pictures, wanted, strict=True):
        assert np.abs(picture[..., :3].astype(int) - frame).mean() < 8
        assert (picture[..., 3] == 255).all()
        assert duration == pytest.approx(40, abs=1)
    if kind != ".webp":  # libav does not read these
        assert content(output).times == content(clip).times


@pytest.mark.parametrize("kind", KINDS)
def test_the_alpha_comes_along(clip: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / f"out{kind}"
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, :20], alpha[:, 20:40] = 255, 180
    with Reader(clip) as reader, Writer(output, reader, content="rgba") as writer:
        for frame in reader:
            writer.write(Frame(**{**vars(frame), "alpha": alpha}))
    wanted = alpha if kind != ".gif" else np.where(alpha >= 128, 255, 0)
    for picture, _ in shown(output):
        assert np.abs(picture[..., 3].astype(int) - wanted).max() <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_alpha_can_be_animated(clip: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / f"out{kind}"
    plane = np.tile(np.arange(WIDTH, dtype=np.uint8) * 4, (HEIGHT, 1))
    with Reader(clip) as reader, Writer(output, reader, content="gray") as writer:
        for number, frame in enumerate(reader):
            writer.write_gray(np.roll(plane, number, 1), frame)  # WebP merges what is alike
    picture, _ = shown(output)[0]
    assert np.abs(picture[..., 1].astype(int) - plane).mean() < 4


def test_sound_is_left_out_with_a_word(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        transcode(clip, tmp_path / "out.gif", audio=True)
    assert "cannot hold audio" in caplog.text and len(shown(tmp_path / "out.gif")) == FRAMES


def test_other_codecs_are_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="libx264"):
        transcode(clip, tmp_path / "out.gif", codec="libx264")
    assert not list(tmp_path.glob("out*"))


def test_hevc_with_alpha_where_the_build_has_it(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mov"
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, :32] = 255
    try:
        with (
            Reader(clip) as reader,
            Writer(output, reader, codec="libx265", content="rgba") as writer,
        ):
            for frame in reader:
                writer.write(Frame(**{**vars(frame), "alpha": alpha}))
    except FuseMatteError as error:
        assert "libx265" in str(error) and "ENABLE_ALPHA" in str(error)
        assert "prores_ks" in str(error)
        assert not list(tmp_path.glob("out*"))
        return
    with Reader(output) as reader:
        assert reader.has_alpha
        found = next(iter(reader)).alpha
    assert found is not None and np.abs(found.astype(int) - alpha).mean() < 8
