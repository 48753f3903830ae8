"""What comes out, as Debian's ffprobe, ffmpeg and Chromium see it: decoders that are not ours.

The network is not the subject: EdgeMatter stands in for it, with people in the left half.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import ROUNDING, make_clip, run_whole
from tests.peers import EdgeMatter, packets, pixels, planes, probe, run_tool, times

from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.jobs.single import Report, Tools

WIDTH, HEIGHT = SIZE = 64, 48
MILLISECOND = Fraction(1, 1000)
SOLID, EMPTY = slice(0, 16), slice(48, 64)
"""Columns where alpha is 1, and 0."""

UNEVEN = [0, 300, 700, 5000, 5100, 9000, 9100, 30_000]
"""A variable frame rate, in 1/12800 s."""


def job(
    source: Path | str,
    output: Path | str,
    background: str = "#00b140",
    **options: Any,  # noqa: ANN401
) -> Report:
    """The whole job but for the network."""
    tools = Tools(EdgeMatter(), open_background(background))  # type: ignore[arg-type]
    return run_whole(source, output, background=background, tools=tools, **options)


def video(path: Path) -> dict[str, Any]:
    return next(s for s in probe(path)["streams"] if s["codec_type"] == "video")


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [suffix for suffix in ROUNDING if suffix != ".flv"])
@pytest.mark.parametrize("content", ["color", "gray", "rgba"])
def test_every_frame_keeps_its_time(tmp_path: Path, suffix: str, content: str) -> None:
    if content == "rgba" and suffix in (".mp4", ".ts"):
        pytest.skip("holds no transparency")
    source = make_clip(
        tmp_path / "in.mp4", times=UNEVEN, time_base=Fraction(1, 12800), start=12_345
    )
    output = tmp_path / f"out{suffix}"
    if content == "gray":
        job(source, tmp_path / "c.mkv", alpha_output=output)
    else:
        job(source, output, "transparent" if content == "rgba" else "#00b140")
    before, after = times(source), times(output)
    assert len(after) == len(before) == 8
    # libav's reader of MPEG-TS sees the first frame at 1.4 s or more: gaps are what counts there.
    shift = after[0] - before[0] if suffix == ".ts" else Fraction(0)
    rounded = ROUNDING[suffix] * (2 if shift else 1)  # the first frame's time and each one's
    assert max(abs(b - a - shift) for a, b in zip(before, after, strict=True)) <= rounded


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(50)])
def test_a_steady_rate_stays_steady(tmp_path: Path, rate: Fraction) -> None:
    source = make_clip(tmp_path / "in.mp4", rate=rate)
    job(source, tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == times(source)
    assert video(tmp_path / "out.mp4")["avg_frame_rate"] == video(source)["avg_frame_rate"]


# --- streams, tags, shape -------------------------------------------------------------------------


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """A file with two sound tracks, subtitles, chapters, a font, and tags everywhere."""
    plain = make_clip(tmp_path / "plain.mkv", frames=50, audio=["aac", "aac"])
    subtitles, chapters, font = (tmp_path / name for name in ("s.srt", "c.txt", "a.ttf"))
    subtitles.write_text("1\n00:00:00,200 --> 00:00:00,900\nHallo\n\n")
    chapters.write_text(
        ";FFMETADATA1\ntitle=Ein Film\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=Eins\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\ntitle=Zwei\n"
    )
    font.write_bytes(b"no font, but nobody looks")
    path = tmp_path / "rich.mkv"
    run_tool(
        "ffmpeg", "-i", plain, "-i", subtitles, "-i", chapters, "-map", "0", "-map", "1", "-c",
        "copy", "-c:s", "subrip", "-map_metadata", "2", "-map_chapters", "2", "-metadata:s:a:1",
        "language=deu", "-metadata:s:s:0", "language=fra", "-disposition:a:1", "default",
        "-disposition:a:0", "0", "-attach", font, "-metadata:s:t", "mimetype=font/ttf", path,
    )  # fmt: skip
    return path


def test_streams_chapters_and_tags_are_copied(rich: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    job(rich, output)
    before, after = probe(rich), probe(output)
    kinds = [stream["codec_type"] for stream in after["streams"]]
    assert kinds == ["video", "audio", "audio", "subtitle", "attachment"]
    for stream in ("a:0", "a:1", "s:0"):
        assert packets(output, stream) == packets(rich, stream)
    for old, new in zip(before["streams"][1:4], after["streams"][1:4], strict=True):
        assert old["tags"].get("language") == new["tags"].get("language")
        assert old["disposition"]["default"] == new["disposition"]["default"]
    assert after["format"]["tags"]["title"] == "Ein Film"
    assert [(c["start_time"], c["end_time"], c["tags"]["title"]) for c in after["chapters"]] == [
        ("0.000000", "1.000000", "Eins"), ("1.000000", "2.000000", "Zwei"),
    ]  # fmt: skip


def test_what_a_container_cannot_hold_is_told(
    rich: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job(rich, tmp_path / "out.mp4")
    assert "left out: attachments, subrip subtitles" in caplog.text
    kinds = [stream["codec_type"] for stream in probe(tmp_path / "out.mp4")["streams"]]
    assert [kind for kind in kinds if kind != "data"] == ["video", "audio", "audio"]
    assert [c["tags"]["title"] for c in probe(tmp_path / "out.mp4")["chapters"]] == ["Eins", "Zwei"]


def test_subtitles_of_mp4_stay(rich: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    run_tool("ffmpeg", "-i", rich, "-map", "0:v", "-map", "0:s", "-c:v", "copy", "-c:s",
             "mov_text", source)  # fmt: skip
    job(source, output)
    assert packets(output, "s:0") == packets(source, "s:0")
    assert next(s for s in probe(output)["streams"] if s["codec_type"] == "subtitle")["tags"][
        "language"
    ] == "fra"  # fmt: skip


def test_a_part_begins_at_zero_with_its_sound(rich: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    report = job(rich, output, start=0.8, end=1.4)
    assert report.frames == 15
    assert times(output) == [Fraction(number, 25) for number in range(15)]
    shift = times(rich)[20]
    moved = [(time - shift, digest) for time, digest in packets(rich, "a:0")]
    wanted = [packet for packet in moved if 0 <= packet[0] < Fraction(3, 5)]
    assert packets(output, "a:0") == wanted
    spans = [(c["start_time"], c["end_time"]) for c in probe(output)["chapters"]]
    assert spans == [("0.000000", "0.179000"), ("0.179000", "0.600000")]  # sound leads by 21 ms


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("rotation", [90, 180])
def test_rotation_is_kept(tmp_path: Path, suffix: str, rotation: int) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=2, rotation=rotation)
    job(source, tmp_path / f"out{suffix}")
    sides = [video(path)["side_data_list"][0] for path in (source, tmp_path / f"out{suffix}")]
    assert sides[0]["rotation"] == sides[1]["rotation"]


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=1, rotation=90)
    job(source, tmp_path / "out_%02d.png")
    stored = pixels(source, "rgb24", size=SIZE)[0]
    got = pixels(tmp_path / "out_01.png", "rgb24", size=(HEIGHT, WIDTH))[0]
    upright = np.rot90(stored, -1)  # by 90 degrees clockwise
    assert np.abs(got[SOLID].astype(int) - upright[SOLID]).mean() < 2


def test_pixel_aspect_is_kept(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", frames=2, aspect=Fraction(4, 3))
    job(source, tmp_path / "out.mov", "transparent")
    job(source, tmp_path / "p_%d.png")
    assert video(tmp_path / "out.mov")["sample_aspect_ratio"] == "4:3"
    # PNG counts pixels per unit, so a wide pixel has fewer across; ffprobe reads it upside down.
    data = (tmp_path / "p_1.png").read_bytes()
    across, down = struct.unpack_from(">II", data, data.index(b"pHYs") + 4)
    assert down / across == pytest.approx(4 / 3, abs=1e-3)


# --- colour ---------------------------------------------------------------------------------------

COLORS = {
    "bt709": ("yuv420p", (1, 1, 1, 1)),
    "bt601": ("yuv422p", (6, 6, 6, 1)),
    "full": ("yuv444p", (5, 5, 6, 2)),
    "bt2020": ("yuv420p10le", (9, 9, 14, 1)),
    "pq": ("yuv420p10le", (9, 9, 16, 1)),
    "hlg": ("yuv422p10le", (9, 9, 18, 1)),
}
TAGS = "color_range", "color_space", "color_primaries", "color_transfer", "pix_fmt"


@pytest.mark.parametrize("name", COLORS)
@pytest.mark.parametrize("size", [SIZE, (63, 47)])
def test_colours_of_people_stay(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    """Before any lossy encoding: FFV1 in, FFV1 out, both decoded by ffmpeg."""
    layout, color = COLORS[name]
    source = make_clip(
        tmp_path / "in.mkv", width=size[0], height=size[1], frames=2, codec="ffv1",
        pixel_format=layout, color=color,
    )  # fmt: skip
    output, alpha = tmp_path / "out.mkv", tmp_path / "alpha.mkv"
    foreground = tmp_path / "foreground_%d.png"
    job(source, output, codec="ffv1", alpha_output=alpha, foreground_output=foreground)
    before, after = planes(source, layout, size=size), planes(output, layout, size=size)
    for old, new in zip(before, after, strict=True):
        solid = slice(0, old.shape[2] // 4)
        assert np.abs(old[..., solid].astype(int) - new[..., solid]).max() <= 1
        assert np.abs(old.astype(int) - new).max() > 20  # the rest is green now
    assert [video(output).get(tag) for tag in TAGS] == [video(source).get(tag) for tag in TAGS]
    # ffmpeg's decoder shows H.264 without colour as 4:2:0.
    ten = "10" in layout
    assert video(alpha)["pix_fmt"] in (("yuv420p10le",) if ten else ("gray", "yuvj420p"))


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", None), (".mp4", "libx265"), (".mov", "prores_ks"), (".ts", None)]
)
@pytest.mark.parametrize("name", ["bt709", "bt601", "bt2020", "pq", "hlg"])
def test_colour_tags_survive_every_codec(
    tmp_path: Path, suffix: str, codec: str | None, name: str
) -> None:
    layout, color = COLORS[name]
    source = make_clip(
        tmp_path / "in.mkv", frames=6, codec="ffv1", pixel_format=layout, color=color
    )
    output = tmp_path / f"out{suffix}"
    job(source, output, codec=codec)
    assert [video(output).get(t) for t in TAGS[:4]] == [video(source).get(t) for t in TAGS[:4]]
    assert video(output)["pix_fmt"].endswith("10le") >= layout.endswith("10le")


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.5807), (18, 0.75)])
def test_white_behind_hdr_people_is_a_diffuse_white(
    tmp_path: Path, transfer: int, white: float
) -> None:
    """203 cd/m2, by ITU-R BT.2408 at 58 % of PQ and 75 % of HLG, and not the peak."""
    source = make_clip(
        tmp_path / "in.mkv", frames=1, codec="ffv1", pixel_format="yuv420p10le",
        color=(9, 9, transfer, 1),
    )  # fmt: skip
    job(source, tmp_path / "out.mkv", "#ffffff", codec="ffv1")
    luma, *_ = planes(tmp_path / "out.mkv", "yuv420p10le", size=SIZE)
    assert np.abs(luma[..., EMPTY] - (64 + 876 * white)).max() <= 2


# --- transparency ---------------------------------------------------------------------------------

READERS = {".webm": ("-c:v", "libvpx-vp9"), ".mov": (), ".mkv": ()}


@pytest.mark.parametrize(
    ("name", "codec"),
    [("out.webm", "vp9"), ("out.mov", "prores"), ("out.mkv", "ffv1"), ("two.mkv", "vp9")],
)
def test_transparent_video_over_green_is_ours_over_green(
    tmp_path: Path, name: str, codec: str
) -> None:
    source, ours = make_clip(tmp_path / "in.mp4", frames=3), tmp_path / "ours.mkv"
    output, alpha = tmp_path / name, tmp_path / "alpha.mkv"
    chosen = {"codec": "libvpx-vp9"} if name == "two.mkv" else {}
    job(source, output, "transparent", crf=4 if codec == "vp9" else None, **chosen)
    job(source, ours, "#00b140", codec="ffv1", pixel_format="yuv444p", alpha_output=alpha)
    assert video(output)["codec_name"] == codec
    decoder = ("-c:v", "libvpx-vp9") if codec == "vp9" else ()
    *colors, opacity = planes(output, "yuva444p", *decoder, size=SIZE)
    expected = planes(ours, "yuv444p", size=SIZE)
    green = [plane[..., EMPTY].mean() for plane in expected]
    share = opacity / 255.0
    assert (share[..., SOLID] > 0.995).all() and (share[..., EMPTY] < 0.005).all()
    for color, behind, wanted in zip(colors, green, expected, strict=True):
        error = np.abs(behind + share * (color - behind) - wanted)
        assert error.mean() < 1.5
        assert np.quantile(error, 0.99) < 8


def test_ten_bits_in_prores_4444(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mkv", frames=2, codec="ffv1", pixel_format="yuv444p10le", color=(9, 9, 16, 1)
    )
    job(source, tmp_path / "out.mov", "transparent")
    assert video(tmp_path / "out.mov")["pix_fmt"].startswith("yuva444p1")
    before = planes(source, "yuv444p10le", size=SIZE)
    *after, alpha = planes(tmp_path / "out.mov", "yuva444p10le", size=SIZE)
    for old, new in zip(before, after, strict=True):
        assert np.abs(old[..., SOLID].astype(int) - new[..., SOLID]).mean() < 3
    assert (alpha[..., SOLID] == 1023).all() and (alpha[..., EMPTY] == 0).all()


PAGE = """<body><video id=v muted src="data:video/webm;base64,%s"></video>
<canvas id=c width=64 height=48></canvas><p id=r></p><script>
v.onloadeddata = () => { v.currentTime = 0.12 };
v.onseeked = () => {
  const g = c.getContext("2d"); g.drawImage(v, 0, 0);
  r.textContent = JSON.stringify([...g.getImageData(0, 0, 64, 48).data]) };
</script>"""


def test_webm_plays_with_transparency_in_chromium(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    from tests.engine.serve.browser import Browser, Tab

    source = make_clip(tmp_path / "in.mp4", frames=8, color=(6, 6, 6, 1))
    job(source, tmp_path / "out.webm", "transparent", crf=4)
    page = tmp_path / "page.html"
    page.write_text(PAGE % base64.b64encode((tmp_path / "out.webm").read_bytes()).decode())
    browser = Browser(tmp_path / "profile")

    async def look() -> str:
        async with await Tab.open(browser, page.as_uri()) as tab:
            await tab.until("r.textContent")
            return str(await tab.run("r.textContent"))

    try:
        found = asyncio.run(look())
    finally:
        browser.close()
    shown = np.array(json.loads(found)).reshape(HEIGHT, WIDTH, 4)
    frame = pixels(source, "rgb24", size=SIZE)[3]  # the one on screen after 0.12 s
    assert (shown[:, EMPTY, 3] == 0).all()
    assert (shown[:, SOLID, 3] >= 253).all()
    assert np.abs(shown[:, SOLID, :3] - frame[:, SOLID]).mean() < 5
    soft = shown[:, 24:40, 3].mean(0)
    assert (np.diff(soft) <= 1).all() and 20 < soft.mean() < 235


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".exr"])
@pytest.mark.parametrize("mode", ["straight", "premultiplied"])
@pytest.mark.parametrize("bits", [8, 10])
def test_pictures_say_how_their_alpha_is_meant(
    tmp_path: Path, suffix: str, mode: str, bits: int
) -> None:
    layout = "yuv444p" if bits == 8 else "yuv444p10le"
    source = make_clip(
        tmp_path / "in.mkv", frames=2, codec="ffv1", pixel_format=layout, color=(1, 1, 1, 1)
    )
    job(source, tmp_path / f"out_%03d{suffix}", "transparent", alpha_mode=mode)
    names = sorted(path.name for path in tmp_path.glob("out*"))
    assert names == [f"out_{number:03d}.{mode}{suffix}" for number in (1, 2)]
    path = tmp_path / names[0]
    assert stated_mode(path) == mode
    format = "gbrapf32le" if suffix == ".exr" else "rgba64le"
    picture = float_picture(path, format)
    plain = rgb_of_source(source, bits)
    if suffix == ".exr":  # linear light on a display of gamma 2.4
        plain = plain**2.4
    solid = picture[:, SOLID]
    assert np.abs(solid[..., 3] - 1).max() < 1e-3
    assert np.abs(solid[..., :3] - plain[:, SOLID]).max() < 0.012
    edge = picture[:, 26:38]
    brighter = edge[..., :3].max(2) > edge[..., 3] + 0.02
    assert brighter.any() == (mode == "straight")
    assert np.abs(picture[:, EMPTY, 3]).max() < 1e-3


def stated_mode(path: Path) -> str:
    """What a picture's metadata say of its alpha, by readers of the format."""
    if path.suffix == ".png":
        data = path.read_bytes()
        found = re.search(rb"tEXtAlpha\x00(\w+?)(?=.{4}\x00\x00)", data, re.DOTALL)
        assert found is not None
        return "straight" if found[1].startswith(b"straight") else "premultiplied"
    if path.suffix == ".exr":
        library = pytest.importorskip("OpenEXR")
        return str(library.File(str(path)).header()["alphaMode"])
    library = pytest.importorskip("tifffile")
    with library.TiffFile(path) as file:
        kind = int(file.pages[0].tags["ExtraSamples"].value[0])
    return {1: "premultiplied", 2: "straight"}[kind]


def float_picture(path: Path, format: str) -> NDArray[np.float64]:
    """[height, width, 4], RGBA in 0..1."""
    if format == "rgba64le":
        return pixels(path, format, size=SIZE)[0] / 65535.0
    raw = run_tool("ffmpeg", "-i", path, "-pix_fmt", format, "-f", "rawvideo", "-")
    green, blue, red, alpha = np.frombuffer(raw, "<f4").reshape(4, HEIGHT, WIDTH).astype(float)
    return np.stack([red, green, blue, alpha], 2)


def rgb_of_source(path: Path, bits: int) -> NDArray[np.float64]:
    """The first frame in R'G'B', 0..1, by ITU-R BT.709's own equations."""
    layout, scale = ("yuv444p", 1) if bits == 8 else ("yuv444p10le", 4)
    y, u, v = (plane[0] / scale for plane in planes(path, layout, size=SIZE))
    luma, blue, red = (y - 16) / 219, (u - 128) / 224 * 1.8556, (v - 128) / 224 * 1.5748
    green = (-0.0722 * blue - 0.2126 * red) / 0.7152
    return np.clip(np.stack([luma + red, luma + green, luma + blue], 2), 0, 1)


def test_alpha_in_gray_pictures_has_the_videos_depth(tmp_path: Path) -> None:
    for layout, expected in (("yuv420p", "gray"), ("yuv420p10le", "gray16be")):
        source = make_clip(tmp_path / "in.mkv", frames=1, codec="ffv1", pixel_format=layout)
        job(source, tmp_path / "out.mkv", alpha_output=tmp_path / "a_%d.png")
        assert video(tmp_path / "a_1.png")["pix_fmt"] == expected
        alpha = pixels(tmp_path / "a_1.png", "gray16le", size=SIZE)[0, ..., 0]
        assert (alpha[:, SOLID] == 65535).all() and (alpha[:, EMPTY] == 0).all()


def test_a_shorter_sequence_replaces_a_longer_one(tmp_path: Path) -> None:
    pattern = tmp_path / "out_%d.png"
    job(make_clip(tmp_path / "a.mp4", frames=4), pattern)
    job(make_clip(tmp_path / "b.mp4", frames=2), pattern)
    assert len(list(tmp_path.glob("out*"))) == 2


# --- interlace ------------------------------------------------------------------------------------


def test_interlaced_video_is_deinterlaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    moving = make_clip(tmp_path / "50p.mkv", frames=20, rate=50, codec="ffv1")
    run_tool(
        "ffmpeg", "-i", moving, "-vf", "tinterlace=4",
        "-flags", "+ilme+ildct", "-c:v", "mpeg2video", "-q:v", "2", source,
    )  # fmt: skip
    assert video(source)["field_order"] in ("tt", "bb", "tb", "bt")
    job(source, output, codec="ffv1")
    assert "is interlaced, and gets deinterlaced" in caplog.text
    assert len(times(output)) == len(times(source))
    assert max(abs(a - b) for a, b in zip(times(output), times(source), strict=True)) <= MILLISECOND
    before, after = (planes(p, "yuv420p", size=SIZE)[0].astype(int) for p in (source, output))

    def comb(luma: NDArray[Any]) -> float:
        """How far lines lie outside of their neighbours, both on the same side."""
        line, above, below = (luma[:, a : luma.shape[1] - 2 + a, SOLID] for a in (1, 0, 2))
        return float(np.maximum(0, (line - above) * (line - below)).mean())

    assert comb(after) < 0.3 * comb(before)
