"""Options of outputs and inputs: what they do, and the one line that says what cannot be."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from tests.helpers import content, make_clip, matte_of, run_whole
from tests.peers import EdgeMatter

from fusematte.cli import main
from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.composite import compose, composite
from fusematte.engine.errors import BackgroundError, FuseMatteError, InputError, UsageError
from fusematte.engine.frame import Frame
from fusematte.engine.jobs.single import Tools
from fusematte.engine.media.files import read_animation
from fusematte.engine.media.formats import Encoding
from fusematte.engine.media.outputs import open_output
from fusematte.engine.media.reader import Reader


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", frames=6)


def read(path: Path | str, **options: object) -> list[Frame]:
    with Reader(path, **options) as reader:  # type: ignore[arg-type]
        return list(reader)


# --- options that cannot be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "options", "said"),
    [
        ("o.mp4", ["--crf", "52"], "crf of libx264 must be 0 to 51, not 52"),
        ("o.webm", ["--crf", "-1"], "crf of libvpx-vp9 must be 0 to 63, not -1"),
        ("o.mp4", ["--crf", "20", "--bitrate", "1M"], "crf and bitrate exclude each other"),
        ("o.mkv", ["--codec", "ffv1", "--bitrate", "1M"], "ffv1 takes no bitrate"),
        ("o.mp4", ["--pixel-format", "pink"], "as 'pink'; use one of yuv420p, "),
        ("o.mp4", ["--pixel-format", "yuva420p"], "as 'yuva420p'; use one of yuv420p, "),
        ("o.mov", ["--codec", "prores_ks", "--pixel-format", "yuv420p"], "one of yuv422p10le, "),
        ("o.mp4", ["-b", "transparent"], ".mp4 cannot hold transparency; write .mov (prores_ks)"),
        ("o.mov", ["-b", "transparent", "--codec", "libx264"], "libx264 in .mov cannot hold"),
        ("o.mp4", ["--rgba-output", "r.mp4"], ".mp4 cannot hold transparency"),
        ("o.webm", ["-b", "transparent", "--pixel-format", "yuv420p"], "use one of yuva420p"),
        ("o.mov", ["-b", "transparent", "--alpha-mode", "premultiplied"], "only sequences"),
        ("o.mp4", ["--alpha-mode", "straight"], "no output has an alpha"),
        ("o.png", [], "pattern for its numbers; write o_%05d.png"),
        ("%d_%d.png", [], "pattern for its numbers"),
        ("o_%d.png", ["--codec", "ffv1"], "leave out --codec"),
        ("o_%d.png", ["--pixel-format", "gray"], "use one of rgb24, rgb48"),
        ("o_%d.exr", ["--pixel-format", "rgb24"], "always has half floats"),
        ("o.mp4", ["--alpha-output", "o.mp4"], "is the name of two outputs"),
        ("o.mp4", ["--start", "9"], "nothing is left from 9.000 s on"),
        ("o.mp4", ["--start", "1", "--end", "0.5"], "end (0.5 s) must be after start (1.0 s)"),
        ("o.mp4", ["--frame-rate", "24"], "has its own frame rate"),
    ],
)
def test_what_cannot_be_is_one_line(
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    output: str,
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["run", clip.name, output, "--quiet", *options])
    error = capsys.readouterr().err
    assert code in (2, 5)
    assert said in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--start", "soon"), ("--end", "-1"), ("--bitrate", "fast"), ("--bitrate", "5"),
        ("--frame-rate", "0"), ("--frame-rate", "1/0"), ("--crf", "1.5"), ("--alpha-mode", "odd"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "in.mp4", "out.mp4", f"{option}={value}"])
    assert stop.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert option in said


def test_hdr_is_not_squeezed_into_eight_bits(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mkv", frames=1, codec="ffv1", pixel_format="yuv420p10le", color=(9, 9, 16, 1)
    )
    with Reader(source) as reader:
        for name, encoding in (
            ("o.webm", Encoding()),
            ("o.mp4", Encoding(pixel_format="yuv420p")),
        ):
            with pytest.raises(UsageError, match="too few bits for HDR"):
                open_output(tmp_path / name, reader, encoding=encoding)


def test_an_hdr_background_needs_an_hdr_video(tmp_path: Path) -> None:
    hdr = make_clip(
        tmp_path / "hdr.mkv", frames=1, codec="ffv1", pixel_format="yuv420p10le",
        color=(9, 9, 16, 1),
    )  # fmt: skip
    frame = read(make_clip(tmp_path / "in.mp4", frames=1))[0]
    with pytest.raises(BackgroundError, match="background is HDR"):
        composite(frame, EdgeMatter()(frame), hdr)
    wide = read(hdr)[0]
    assert composite(wide, EdgeMatter()(wide), hdr).color.is_hdr


def test_fewer_bits_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_clip(tmp_path / "in.mkv", frames=1, codec="ffv1", pixel_format="yuv420p10le")
    with Reader(source) as reader:
        open_output(tmp_path / "o.webm", reader).abandon()
    assert "has no more than 8 bits; the video has 10" in caplog.text


def test_bitrate_and_pixel_format_reach_the_encoder(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", width=320, height=240, frames=25, codec="ffv1")
    sizes = []
    tools = Tools(EdgeMatter(), open_background("green"))  # type: ignore[arg-type]
    for bitrate in (100_000, 2_000_000):
        path = tmp_path / f"{bitrate}.mp4"
        run_whole(source, path, bitrate=bitrate, pixel_format="yuv444p", tools=tools)
        sizes.append(path.stat().st_size)
        with Reader(path) as reader:
            assert reader.format.name == "yuv444p"
    assert sizes[0] * 2 < sizes[1]


# --- the mask alone -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix",
    [".mp4", ".mov", ".mkv", ".webm", ".ts", ".avi", ".flv", ".gif", ".webp", ".apng",
     "_%d.png", "_%d.tiff", "_%d.exr"],
)  # fmt: skip
def test_a_mask_is_what_the_alpha_output_is(clip: Path, tmp_path: Path, suffix: str) -> None:
    if suffix in ("_%d.tiff", "_%d.exr"):
        pytest.importorskip("tifffile" if suffix == "_%d.tiff" else "OpenEXR")
    mask, alpha = tmp_path / f"mask{suffix}", tmp_path / f"alpha{suffix}"
    tools = Tools(EdgeMatter(), open_background("mask"))  # type: ignore[arg-type]
    edits = {"invert": True, "grow": 2, "feather": 1.5}
    run_whole(clip, mask, background="mask", tools=tools, alpha_output=alpha, **edits)
    made = sorted(tmp_path.glob("mask*"))
    assert len(made) == (6 if "%" in suffix else 1)
    for one in made:
        other = one.with_name(one.name.replace("mask", "alpha"))
        if "%" in suffix:
            assert one.read_bytes() == other.read_bytes()
        else:
            for picture, wanted in zip(pictures_of(one), pictures_of(other), strict=True):
                np.testing.assert_array_equal(picture, wanted)


def pictures_of(path: Path) -> list[np.ndarray]:
    if path.suffix == ".webp":  # libav cannot read it
        return [*read_animation(path)[0]]
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


@pytest.mark.parametrize(("pixel_format", "peak"), [("yuv420p", 255), ("yuv422p10le", 1023)])
def test_a_mask_goes_from_black_to_white(tmp_path: Path, pixel_format: str, peak: int) -> None:
    """In full range and in all bits, with the sound, and beside the people cut out."""
    clip = make_clip(tmp_path / "in.mkv", codec="ffv1", pixel_format=pixel_format, audio=True)
    output, cut = tmp_path / "mask.mkv", tmp_path / "cut.mkv"
    tools = Tools(EdgeMatter(), open_background("mask"))  # type: ignore[arg-type]
    given = {"background": "mask", "codec": "ffv1"}
    run_whole(clip, output, rgba_output=cut, tools=tools, **given)
    for frame, people in zip(read(output), read(cut), strict=True):
        assert frame.color.full_range
        assert (frame.planes[0][:, :16] == peak).all() and not frame.planes[0][:, 48:].any()
        assert people.alpha is not None
        np.testing.assert_array_equal(frame.planes[0], people.alpha)
    assert content(output).packets == content(clip).packets
    alone = tmp_path / "alone.mkv"
    run_whole(clip, alone, tools=tools, **given)
    for frame, wanted in zip(read(alone), read(output), strict=True):
        np.testing.assert_array_equal(frame.planes[0], wanted.planes[0])


# --- inputs ---------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures numbered 8 to 11."""
    folder = tmp_path / "shots"
    folder.mkdir()
    clip = make_clip(tmp_path / "source.mkv", frames=4, codec="ffv1", pixel_format="yuv444p")
    with av.open(str(clip)) as container:
        for number, picture in enumerate(container.decode(video=0), start=8):
            picture.to_image().save(folder / f"shot{number}.png")
    return folder


@pytest.mark.parametrize("name", ["shots", "shots/shot%d.png"])
def test_pictures_are_read_in_the_order_of_their_numbers(
    pictures: Path, tmp_path: Path, name: str
) -> None:
    (pictures / "notes.txt").write_text("no picture")
    frames = read(tmp_path / name, frame_rate=Fraction(30000, 1001))
    assert [frame.time for frame in frames] == [Fraction(1001 * n, 30000) for n in range(4)]
    for frame, wanted in zip(frames, read(tmp_path / "source.mkv"), strict=True):
        error = np.abs(frame.planes[0].astype(int) - wanted.planes[0])
        assert error.max() <= 3
    with Reader(tmp_path / name) as reader:
        assert (reader.frame_count, reader.frame_rate) == (4, 25)


def test_pictures_that_make_no_sequence(pictures: Path, tmp_path: Path) -> None:
    (pictures / "shot9.png").unlink()
    with pytest.raises(InputError, match="number 9 is missing between 8 and 11"):
        Reader(pictures / "shot%d.png")
    with pytest.raises(InputError, match="no file matches"):
        Reader(pictures / "take%04d.png")
    with pytest.raises(InputError, match=r"not '\.mp4'"):
        Reader(pictures / "take%04d.mp4")
    (pictures / "other.jpg").write_bytes((pictures / "shot8.png").read_bytes())
    with pytest.raises(InputError, match=r"several kinds \(\.jpg, \.png\)"):
        Reader(pictures)
    with pytest.raises(UsageError, match="would overwrite its own input"):
        run_whole(pictures, pictures / "out_%d.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="without pictures"):
        Reader(tmp_path / "empty")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server for ``tmp_path``."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


def test_a_url_is_read_like_a_file(clip: Path, server: str) -> None:
    assert [frame.time for frame in read(f"{server}/in.mp4")] == content(clip).times
    with pytest.raises(InputError, match=r"missing\.mp4: cannot be opened"):
        Reader(f"{server}/missing.mp4")


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9"),
                          (".ts", "libx264"), (".avi", "mpeg4"), (".h264", "libx264")],
)  # fmt: skip
def test_a_part_has_the_frames_of_the_whole(tmp_path: Path, suffix: str, codec: str) -> None:
    options = {"g": "12"} | ({"bf": "0"} if suffix == ".avi" else {})
    path = make_clip(tmp_path / f"a{suffix}", frames=40, codec=codec, options=options)
    whole = read(path)
    part = read(path, start=0.6, end=Fraction(6, 5))
    assert [frame.pts for frame in part] == [frame.pts for frame in whole[15:30]]
    for frame, wanted in zip(part, whole[15:30], strict=True):
        assert np.array_equal(frame.planes[0], wanted.planes[0])


# --- alpha in the input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [("t.webm", {"crf": 4}), ("t.mov", {}), ("t.mkv", {}), ("t_%d.png", {})],
)
def test_the_alpha_of_the_input_counts(
    clip: Path, tmp_path: Path, name: str, options: dict[str, int]
) -> None:
    tools = Tools(EdgeMatter(), open_background("transparent"))  # type: ignore[arg-type]
    run_whole(clip, tmp_path / name, background="transparent", tools=tools, **options)
    given = name.replace("%d", "%d.straight")
    frame = read(tmp_path / given)[0]
    assert frame.alpha is not None
    people = matte_of(frame, np.ones((18, 24), np.float32))  # everywhere, says the network
    over = composite(frame, people, "#00b140")
    peak = frame.format.peak
    assert (frame.alpha[:, :16] == peak).all() and (frame.alpha[:, 48:] == 0).all()
    assert np.array_equal(over.planes[0][:, :16], frame.planes[0][:, :16])
    green = composite(frame, matte_of(frame, np.zeros((18, 24), np.float32)), "#00b140")
    assert np.array_equal(over.planes[0][:, 48:], green.planes[0][:, 48:])
    cut = composite(frame, people, "transparent")
    assert cut.alpha is not None
    assert np.array_equal(cut.alpha, frame.alpha)
    mask = compose(frame, people, open_background("mask"))
    assert mask.alpha is not None and np.array_equal(mask.alpha, frame.alpha)


def test_errors_are_the_products_own() -> None:
    with pytest.raises(FuseMatteError):
        open_background("https://127.0.0.1:9/beach.mp4")
