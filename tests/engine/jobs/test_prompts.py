"""What a job is to keep: read from text and files, followed both ways and over segments."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import make_clip, two_people

from fusematte.cli import main
from fusematte.engine.errors import InputError, UsageError
from fusematte.engine.jobs import prompts as module
from fusematte.engine.jobs.options import JobOptions, parse_time
from fusematte.engine.jobs.prompts import choose, parse_prompt, read_mask, read_prompts
from fusematte.engine.jobs.run import run
from fusematte.engine.jobs.segmented import segments_of
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Prompt
from fusematte.engine.media import segments
from fusematte.engine.media.reader import Reader

pytestmark = pytest.mark.usefixtures("small_network")

FRAMES = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    options = {"g": "4", "keyint_min": "4"}
    return make_clip(
        path, width=256, height=128, frames=FRAMES, options=options, show=two_people, start=25
    )


def alphas(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgba")[..., 3] for f in container.decode(video=0)])


def job(clip: Path, output: Path, **options: object) -> NDArray[np.uint8]:
    run(clip, output, background="transparent", backend="openvino:cpu:f32", threads=1,
        **options)  # type: ignore[arg-type]  # fmt: skip
    return alphas(output)


def test_prompts_are_read_from_text() -> None:
    assert parse_prompt("keep", "0.5,0.25", parse_time) == Prompt(kind="keep", place=(0.5, 0.25))
    later = parse_prompt("box", "10,20,30,40@1:15.5", parse_time)
    assert later.place == (10, 20, 30, 40) and later.time == Fraction("75.5")


@pytest.mark.parametrize("text", ["", "0.5", "a,b", "1,2,3", "0.5,0.5@", "0.5,0.5@noon", "-1,0.5"])
def test_text_that_is_no_prompt(text: str) -> None:
    with pytest.raises(UsageError, match="keep"):
        parse_prompt("keep", text, parse_time)


def test_a_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    listed = [
        {"keep": [0.4, 0.5]},
        {"drop": [0.1, 0.2], "time": 1.5},
        {"everybody": True, "time": 3},
    ]
    told = {"prompts": listed, "mask": "first.png"}
    path.write_text(json.dumps(told), "utf-8")
    found, mask = read_prompts(path)
    assert [(one.kind, one.place, one.time) for one in found] == [
        ("keep", (0.4, 0.5), None),
        ("drop", (0.1, 0.2), Fraction(3, 2)),
        ("everybody", (), Fraction(3)),
    ]
    assert mask == tmp_path / "first.png"
    assert JobOptions(prompts=path, keep="0.1,0.1").selection == ((
        Prompt(kind="keep", place=(0.1, 0.1)), *found), mask)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", InputError),
        ("[]", UsageError),
        ('{"prompts": 3}', UsageError),
        ('{"prompts": [{"kep": [0, 0]}]}', UsageError),
        ('{"prompts": [{"keep": [0.1, 0.2], "drop": [0.1, 0.2]}]}', UsageError),
        ('{"prompts": [{"keep": [0.1]}]}', UsageError),
        ('{"prompts": [{"keep": ["a", true]}]}', UsageError),
        ('{"prompts": [{"everybody": false}]}', UsageError),
        ('{"prompts": [{"keep": [0.1, 0.2], "time": -1}]}', UsageError),
        ('{"mask": 3}', UsageError),
    ],
)
def test_files_that_are_none_are_named(tmp_path: Path, text: str, error: type[Exception]) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(text, "utf-8")
    with pytest.raises(error, match=r"prompts\.json"):
        read_prompts(path)


def test_masks(tmp_path: Path) -> None:
    picture = np.zeros((48, 64), np.uint8)
    picture[10:20] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), picture)
    mask = read_mask(tmp_path / "mask.png", 48, 64).mask
    assert mask is not None and mask[15].min() == 1 and mask[30].max() == 0
    with pytest.raises(UsageError, match="is 64x48, but the picture"):
        read_mask(tmp_path / "mask.png", 64, 48)
    cv2.imwrite(str(tmp_path / "black.png"), 0 * picture)
    with pytest.raises(UsageError, match="nothing in it is white"):
        read_mask(tmp_path / "black.png", 48, 64)
    with pytest.raises(InputError):
        read_mask(tmp_path / "missing.png", 48, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep", "300,3"), "lies outside the picture, which is 256x128"),
        (("--keep", "0.5,0.5@99"), "the video ends before"),
        (("--keep", "0.5,0.5", "--drop", "0.5,0.5"), "contradict each other"),
        (("--keep", "middle"), "write X,Y[@TIME]"),
        (("--keep-box", "0.5,0.5,0.9,0.1"), "lies outside the picture"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    code = main(["run", "-q", str(clip), str(tmp_path / "out.mp4"), *options])
    assert code == UsageError.exit_code
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_in_segments_and_resumed_as_in_one_piece(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"drop": ("0.22,0.4", "0.72,0.4@0.52")}
    whole = job(clip, tmp_path / "whole.mkv", **chosen)
    everybody = job(clip, tmp_path / "everybody.mkv")
    assert np.abs(whole.astype(int) - everybody).max() > 25
    monkeypatch.setattr(segments, "FRAMES", 8)
    cut = job(clip, tmp_path / "cut.mkv", **chosen)
    np.testing.assert_array_equal(cut, whole)

    def break_off(done: int, *_: object) -> None:
        if done == 19:
            raise KeyboardInterrupt

    output = tmp_path / "broken.mkv"
    with pytest.raises(KeyboardInterrupt):
        job(clip, output, progress=break_off, **chosen)
    np.testing.assert_array_equal(job(clip, output, resume=True, **chosen), whole)
    with pytest.raises(KeyboardInterrupt):
        job(clip, output, progress=break_off, **chosen)
    with pytest.raises(UsageError, match="drop"):
        job(clip, output, resume=True, drop=("0.7,0.4",))
    for memory in segments_of(output).glob("*.npz"):
        memory.write_bytes(b"")
    with pytest.raises(Exception, match="missing or damaged, and with it who was selected"):
        job(clip, output, resume=True, **chosen)


def test_a_prompt_in_the_middle_works_backwards(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames before are followed on a clock that runs backwards."""
    monkeypatch.setattr(module, "CHUNK", Fraction(1, 5))
    at = Fraction(12, 25)
    prompts = [Prompt(kind="keep", place=(0.22, 0.3), time=at)]
    seen: list[Fraction] = []
    with Matter(backend="openvino:cpu:f32", threads=1) as matter, Reader(clip) as reader:
        matte = Matter.__call__

        def note(self: Matter, frame: Callable[..., object]) -> object:  # fmt: skip
            seen.append(-frame.time)  # type: ignore[attr-defined]
            return matte(self, frame)  # type: ignore[arg-type]

        monkeypatch.setattr(Matter, "__call__", note)
        choose(matter, reader, prompts, None, lambda: Reader(clip))
        waiting = matter.waiting_prompts
    assert seen == [1 + Fraction(number, 25) for number in range(12, 12 - len(seen), -1)]
    assert len(seen) > 1
    assert waiting[-1] == replace(prompts[0])
    if len(seen) == 13:  # it led back to the first frame
        assert [one.kind for one in waiting] == ["mask", "keep"]
        assert waiting[0].time == 0 and waiting[0].mask is not None


def test_what_is_read_only_once_keeps_everybody_before(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [Prompt(kind="keep", place=(0.22, 0.3), time=Fraction(12, 25))]
    with Matter(backend="openvino:cpu:f32", threads=1) as matter, Reader(clip) as reader:
        choose(matter, reader, prompts, None, None)
        assert [one.kind for one in matter.waiting_prompts] == ["keep"]
    assert "everybody is kept before the first prompt" in caplog.text


def test_smoothing_and_a_choice_are_done_in_one_piece(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="smoothing does not follow a choice"):
        job(clip, tmp_path / "out.mkv", keep="0.5,0.5", smoothing=True, resume=True)
