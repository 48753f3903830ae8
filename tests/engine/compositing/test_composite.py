"""Backgrounds of every kind, and the people blended over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.helpers import cut, make_clip, matte_of

from fusematte.engine.compositing.backgrounds import Background, BlurBackground, open_background
from fusematte.engine.compositing.composite import compose, composite
from fusematte.engine.errors import BackgroundError
from fusematte.engine.frame import PIXEL_FORMATS, Color, Frame, Matte, Plane, StreamKey
from fusematte.engine.matting.refine import refine
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.engine.pixels.fit import fit_frame

RGB = tuple[int, int, int]
RED, LIME, BLUE, GRAY = (200, 30, 30), (40, 200, 40), (30, 40, 200), (128, 128, 128)


def make_frame(
    name: str = "yuv420p", height: int = 36, width: int = 64, *, seed: int = 0, full: bool = False
) -> Frame:
    """Smooth noise in the legal codes of the layout, BT.709."""
    layout, rng = PIXEL_FORMATS[name], np.random.default_rng(seed)
    scale = 1 << (layout.bits - 8)

    def plane(shape: tuple[int, int]) -> Plane:
        coarse = rng.uniform(20 * scale, 235 * scale, (3, 3)).astype(np.float32)
        smooth = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(smooth).astype(layout.dtype)

    chroma = layout.chroma_shape(height, width)
    return Frame(
        planes=(plane((height, width)), plane(chroma), plane(chroma)),
        format=layout,
        color=Color(matrix=1, full_range=full),
        time_base=Fraction(1, 25),
    )


def flat_matte(frame: Frame, value: float, size: tuple[int, int] = (32, 64)) -> Matte:
    return matte_of(frame, np.full(size, value, np.float32))


def background_of(spec: str | Path | Background, frame: Frame) -> Frame:
    """What shows where nobody is."""
    if not isinstance(spec, Background):
        spec = open_background(spec)
    return compose(frame, flat_matte(frame, 0), spec).frame


def rgb_of(frame: Frame) -> NDArray[np.float64]:
    """[height, width, 3], 0..255, from the definition of YCbCr; chroma by nearest neighbour."""
    black, luma_span, neutral, chroma_span = frame.levels
    y, cb, cr = (
        np.repeat(
            np.repeat(plane, -(-frame.height // plane.shape[0]), 0),
            -(-frame.width // plane.shape[1]),
            1,
        )[: frame.height, : frame.width].astype(np.float64)
        for plane in frame.planes
    )
    y, cb, cr = (y - black) / luma_span, (cb - neutral) / chroma_span, (cr - neutral) / chroma_span
    red_weight, blue_weight = frame.matrix
    red, blue = y + 2 * (1 - red_weight) * cr, y + 2 * (1 - blue_weight) * cb
    green = (y - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    return np.dstack([red, green, blue]) * 255


def near(frame: Frame, rgb: RGB, tolerance: float = 4) -> bool:
    """Whether the whole frame shows one colour; 8-bit limited range resolves it to about 2."""
    return bool(np.abs(rgb_of(frame) - rgb).max() <= tolerance)


def write_picture(path: Path, rgb: NDArray[np.uint8]) -> Path:
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    return path


def write_colors(
    path: Path,
    colors: Sequence[RGB],
    *,
    rate: int = 25,
    start: int = 0,
    rotation: int = 0,
    size: tuple[int, int] = (32, 64),
) -> Path:
    """A clip of flat colours, one frame each, in BT.709, limited range."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1", "bf": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        if rotation:
            stream.set_display_rotation(-rotation)
        for index, color in enumerate(colors):
            picture = np.full((*size, 3), color, np.uint8)
            image = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
                format="yuv420p", dst_colorspace=1, src_color_range=2, dst_color_range=1
            )
            image.pts, image.time_base = index + start, Fraction(1, rate)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


# --- colours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIXEL_FORMATS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("size", [(36, 64), (35, 63), (1, 1)])
def test_colour_in_every_layout(name: str, full: bool, size: tuple[int, int]) -> None:
    frame = make_frame(name, *size, full=full)
    assert near(background_of("#3c78b4", frame), (0x3C, 0x78, 0xB4))


def test_colour_code_values_of_white_black_and_green() -> None:
    frame = make_frame()

    def codes(spec: str) -> list[int]:
        return [int(plane[0, 0]) for plane in background_of(spec, frame).planes]

    assert codes("#ffffff") == [235, 128, 128]
    assert codes("#000000") == [16, 128, 128]
    # #00b140 in BT.709: R' = 0, G' = 177/255, B' = 64/255; Y' = 0.7152 * 0.6941 + 0.0722 * 0.2510
    # = 0.5145; Y = 16 + 219 * 0.5145 = 128.7; Cb = 128 + 224 * (0.2510 - 0.5145) / 1.8556 = 96.2;
    # Cr = 128 - 224 * 0.5145 / 1.5748 = 54.8.
    assert np.abs(np.subtract(codes("green"), [128.7, 96.2, 54.8])).max() <= 1


def test_untagged_small_frame_is_bt601() -> None:
    # Pure blue: Y = 16 + 219 * 0.114 = 41, Cb = 240, Cr = 128 - 224 * 0.114 / 1.402 = 109.8.
    frame = replace(make_frame(), color=Color())
    codes = [int(plane[0, 0]) for plane in background_of("#0000ff", frame).planes]
    assert np.abs(np.subtract(codes, [41, 240, 110])).max() <= 1


# --- pictures -------------------------------------------------------------------------------------


def halves(height: int, width: int, left: RGB, right: RGB) -> NDArray[np.uint8]:
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2], picture[:, width // 2 :] = left, right
    return picture


def test_picture_covers_and_is_cropped_in_the_middle(tmp_path: Path) -> None:
    # A square of four bands from left to right, and a frame twice as high as wide: the middle
    # half of the square is what shows, so the two middle bands, half each.
    bands = np.hstack([halves(80, 40, RED, LIME), halves(80, 40, BLUE, RED)])
    frame = make_frame("yuv444p", height=80, width=40)
    shown = rgb_of(background_of(write_picture(tmp_path / "a.png", bands), frame))
    assert np.abs(shown[:, :19] - LIME).max() <= 4
    assert np.abs(shown[:, 21:] - BLUE).max() <= 4


@pytest.mark.parametrize("name", PIXEL_FORMATS)
@pytest.mark.parametrize("size", [(36, 64), (35, 21), (1, 1), (720, 3)])
def test_picture_in_every_layout_and_size(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    path = write_picture(tmp_path / "a.png", np.full((40, 50, 3), LIME, np.uint8))
    assert near(background_of(path, make_frame(name, *size)), LIME)


def test_picture_is_fitted_anew_when_the_frame_changes(tmp_path: Path) -> None:
    background = open_background(write_picture(tmp_path / "a.png", halves(64, 64, RED, BLUE)))
    for frame in (make_frame(), make_frame(full=True), make_frame("yuv422p10le", 21, 35)):
        shown = rgb_of(background_of(background, frame))
        assert np.abs(shown[0, 0] - RED).max() <= 4
        assert np.abs(shown[0, -1] - BLUE).max() <= 4


def test_picture_for_wide_pixels(tmp_path: Path) -> None:
    # 32 x 32 samples, twice as wide as high on display: a 2:1 picture fits without a crop.
    path = write_picture(tmp_path / "a.png", halves(32, 64, RED, BLUE))
    frame = replace(make_frame("yuv444p", 32, 32), aspect=Fraction(2))
    shown = rgb_of(background_of(path, frame))
    assert np.abs(shown[:, :15] - RED).max() <= 4
    assert np.abs(shown[:, 17:] - BLUE).max() <= 4


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_picture_is_upright_after_the_player_turned_the_frame(
    tmp_path: Path, rotation: int
) -> None:
    quarters = np.vstack([halves(16, 32, RED, LIME), halves(16, 32, BLUE, GRAY)])
    frame = replace(make_frame("yuv444p", 32, 32), rotation=rotation)
    shown = background_of(write_picture(tmp_path / "a.png", quarters), frame)
    displayed = np.rot90(rgb_of(shown), -rotation // 90)
    for (y, x), color in {(4, 4): RED, (4, 27): LIME, (27, 4): BLUE, (27, 27): GRAY}.items():
        assert np.abs(displayed[y, x] - color).max() <= 4


@settings(max_examples=60, deadline=None)
@given(
    names=st.tuples(*[st.sampled_from(sorted(PIXEL_FORMATS))] * 2),
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    turns=st.tuples(*[st.sampled_from([0, 90, 180, 270])] * 2),
    aspect=st.sampled_from([Fraction(1), Fraction(4, 3), Fraction(1, 2)]),
)
def test_fit_frame_has_the_targets_planes(
    names: tuple[str, str],
    source: tuple[int, int],
    target: tuple[int, int],
    turns: tuple[int, int],
    aspect: Fraction,
) -> None:
    picture = replace(make_frame(names[0], *source, full=True), rotation=turns[0], aspect=aspect)
    frame = replace(make_frame(names[1], *target), rotation=turns[1])
    planes = fit_frame(picture, frame)
    assert [p.shape for p in planes] == [p.shape for p in frame.planes]
    peak = (1 << frame.format.bits) - 1
    assert all(p.min() >= 0 and p.max() <= peak for p in planes)


# --- videos ---------------------------------------------------------------------------------------


COLORS = (RED, LIME, BLUE)


def shown_at(background: Background, times: Sequence[Fraction]) -> list[RGB]:
    """Which of the colours shows at each time of the job."""
    frame, seen = make_frame(), []
    for time in times:
        at = replace(frame, pts=int(time * 9000), time_base=Fraction(1, 9000))
        picture = background_of(background, at)
        seen.append(next(color for color in (*COLORS, GRAY) if near(picture, color, 8)))
    return seen


def test_video_at_the_jobs_rate(tmp_path: Path) -> None:
    background = open_background(write_colors(tmp_path / "a.mp4", COLORS))
    times = [Fraction(index, 25) for index in range(8)]
    assert shown_at(background, times) == [*COLORS, *COLORS, RED, LIME]


def test_slow_video_holds_its_frames(tmp_path: Path) -> None:
    # 10 frames/s under a job of 25: frame n of the job is at n / 25 s, in background frame
    # floor(10 n / 25): 0 0 0 1 1 2 2 2, then the loop begins at 0.3 s: 3 -> 0 from n = 8 on.
    background = open_background(write_colors(tmp_path / "a.mp4", COLORS, rate=10))
    times = [Fraction(index, 25) for index in range(13)]
    expected = [COLORS[10 * index // 25 % 3] for index in range(13)]
    assert shown_at(background, times) == expected


def test_fast_video_drops_frames(tmp_path: Path) -> None:
    # 50 frames/s under a job of 10: five background frames a job frame, of a loop of three.
    background = open_background(write_colors(tmp_path / "a.mp4", COLORS, rate=50))
    times = [Fraction(index, 10) for index in range(7)]
    assert shown_at(background, times) == [COLORS[5 * index % 3] for index in range(7)]


def test_video_begins_with_the_jobs_first_frame(tmp_path: Path) -> None:
    # Neither the job nor the background starts at zero: the background's first frame shows first,
    # for as long as any other.
    background = open_background(write_colors(tmp_path / "a.mkv", COLORS, start=50))
    times = [Fraction(7) + Fraction(index, 25) for index in range(7)]
    assert shown_at(background, times) == [*COLORS, *COLORS, RED]


def test_video_starts_anew_with_the_next_job(tmp_path: Path) -> None:
    path = write_colors(tmp_path / "a.mp4", COLORS)
    background = open_background(path)
    times = [Fraction(index, 25) for index in range(5)]
    assert shown_at(background, times) == [*COLORS, RED, LIME]
    assert shown_at(background, times) == [*COLORS, RED, LIME]


def test_video_is_turned_for_display(tmp_path: Path) -> None:
    # Stored 32 x 64, shown 64 high: a frame stored upright takes it turned and without a crop.
    path = write_colors(tmp_path / "a.mp4", [LIME], rotation=90)
    frame = make_frame(height=64, width=32)
    assert near(background_of(path, frame), LIME, 8)


def test_video_cut_short_loops_what_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_clip(tmp_path / "a.mkv", frames=50, options={"g": "5"})
    background = open_background(cut(whole, 0.5))
    shown = [
        background_of(background, replace(make_frame(), pts=index)).planes[0].tobytes()
        for index in range(100)
    ]
    loop = shown.index(shown[0], 1)  # its length: what could be read
    assert 10 < loop < 40
    assert shown == (shown[:loop] * 10)[:100]
    assert len(set(shown[:loop])) == loop
    assert len(caplog.records) == 1
    assert "truncated" in caplog.text


# --- blur -----------------------------------------------------------------------------------------


def test_blur_of_a_flat_picture_is_that_picture() -> None:
    frame = replace(background_of("#5078a0", make_frame()), pts=0)
    assert near(background_of("blur", frame), (0x50, 0x78, 0xA0))


def test_blur_does_not_bleed_the_persons_colour() -> None:
    # A red person before a blue wall: what lies around and behind must stay blue.
    height, width = 144, 256
    mask = np.zeros((height, width), bool)
    mask[40:, 100:156] = True
    picture = np.where(mask[..., None], RED, BLUE).astype(np.uint8)
    frame = frame_from_rgb(picture)
    matte = matte_of(frame, mask.astype(np.float32))
    small = np.asarray(BlurBackground(40).render(frame, matte))
    y, u, v = (cv2.resize(plane, (width, height)) for plane in small)
    blurred = rgb_of(frame.with_planes((y, u, v)))
    assert np.abs(blurred - BLUE)[~mask].max() < 8
    naive = cv2.GaussianBlur(picture, (0, 0), 40 * height / 720)
    assert np.abs(naive - np.array(BLUE))[~mask].max() > 40  # what there was to avoid


def test_more_sigma_blurs_more() -> None:
    rng = np.random.default_rng(0)
    frame = frame_from_rgb(rng.integers(0, 256, (72, 128, 3), np.uint8))
    matte = flat_matte(frame, 0, (288, 512))
    spread = [
        float(np.std(open_background(spec).render(frame, matte)[0]))
        for spec in ("blur:2", "blur", "blur:90", "blur:720")
    ]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 4 * spread[-1]


@pytest.mark.parametrize("name", PIXEL_FORMATS)
@pytest.mark.parametrize("size", [(36, 64), (35, 21), (1, 1)])
def test_blur_in_every_layout_and_size(name: str, size: tuple[int, int]) -> None:
    frame = make_frame(name, *size)
    got = background_of("blur:30", frame)
    for plane, own in zip(got.planes, frame.planes, strict=True):
        assert (plane.shape, plane.dtype) == (own.shape, own.dtype)
        assert own.min() - 1 <= plane.min() <= plane.max() <= own.max() + 1


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        "greeen", "#12345", "#1234567", "#12345g", "", "blur:abc", "blur:-1", "blur:0", "blur:",
        "blur:nan", "blur:inf", "blur:721", "blurred", "missing.png", "missing.mp4",
    ],
)  # fmt: skip
def test_unknown_background(spec: str) -> None:
    with pytest.raises(BackgroundError) as caught:
        open_background(spec)
    assert repr(spec) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"this is text\n" * 9])
def test_file_that_is_neither_picture_nor_video(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BackgroundError, match=r"neither a picture .* nor a video"):
        open_background(path)


def test_folder_as_a_background(tmp_path: Path) -> None:
    with pytest.raises(BackgroundError, match="without pictures"):
        open_background(tmp_path)


# --- the blend ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIXEL_FORMATS)
@pytest.mark.parametrize("size", [(36, 64), (35, 63)])
def test_solid_people_keep_their_pixels(name: str, size: tuple[int, int]) -> None:
    frame = make_frame(name, *size)
    got = composite(frame, flat_matte(frame, 1), "#ff00ff")
    for plane, own in zip(got.planes, frame.planes, strict=True):
        assert np.abs(plane.astype(int) - own).max() <= 1


def test_half_transparent_people_are_mixed() -> None:
    # A picture of one colour: the foreground is that colour whatever alpha is.
    frame = background_of("#808080", make_frame("yuv444p"))
    got = composite(frame, flat_matte(frame, 0.5), "#000000")
    # Luma 16 + 219 * 128 / 255 = 126, halfway to black: (126 + 16) / 2 = 71.
    assert abs(int(np.median(got.planes[0])) - 71) <= 1


def test_composite_keeps_what_is_not_pixels() -> None:
    frame = replace(make_frame(), pts=77, duration=3, rotation=180, aspect=Fraction(4, 3))
    before = [plane.copy() for plane in frame.planes]
    got = composite(frame, flat_matte(frame, 0.3))
    assert replace(got, planes=frame.planes) == frame
    for plane, copy in zip(frame.planes, before, strict=True):
        np.testing.assert_array_equal(plane, copy)


def test_compose_returns_the_alpha_it_used() -> None:
    frame = make_frame()
    alpha = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
    matte = matte_of(frame, alpha)
    result = compose(frame, matte, open_background("green"), with_alpha=True)
    assert result.alpha is not None
    np.testing.assert_array_equal(result.alpha, refine(frame, matte))
    assert result.alpha.shape == (36, 64)
    assert compose(frame, matte, open_background("green")).alpha is None


@pytest.mark.parametrize("name", ["yuv420p", "yuv444p10le"])
@pytest.mark.parametrize("full_range", [False, True])
def test_a_mask_is_gray_in_the_frames_own_range(name: str, full_range: bool) -> None:
    frame = make_frame(name)
    frame = replace(frame, color=frame.color._replace(full_range=full_range))
    matte = matte_of(frame, np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1)))
    got = composite(frame, matte, "mask")
    black, span, neutral, _ = frame.levels
    wanted = refine(frame, matte) / frame.format.peak * span + black
    assert np.abs(got.planes[0] - wanted).max() <= 0.51
    assert got.planes[0].max() == black + span
    assert (got.planes[1] == neutral).all() and (got.planes[2] == neutral).all()
    assert replace(got, planes=frame.planes) == frame


def test_soft_edges_do_not_carry_the_old_wall_along() -> None:
    # A white person with a soft edge before a green wall, put before black: the edge must be gray.
    height, width = 64, 128
    alpha = np.tile(np.clip((np.arange(width) - 44) / 40, 0, 1), (height, 1))[..., None]
    mixed = alpha * (235, 235, 235) + (1 - alpha) * np.array([20, 180, 20])
    frame = frame_from_rgb(mixed.astype(np.uint8))
    got = rgb_of(composite(frame, matte_of(frame, alpha[..., 0].astype(np.float32)), "#000000"))
    edge = got[20:40, 55:75]
    tint = float((edge[..., 1] - (edge[..., 0] + edge[..., 2]) / 2).max())
    old = (alpha * mixed)[20:40, 55:75]
    assert tint < float((old[..., 1] - (old[..., 0] + old[..., 2]) / 2).max()) / 3


def test_background_by_name_is_opened_once(tmp_path: Path) -> None:
    path = write_colors(tmp_path / "a.mp4", COLORS)
    frame = make_frame()
    shown = [composite(replace(frame, pts=index), flat_matte(frame, 0), path) for index in range(4)]
    for picture, color in zip(shown, [*COLORS, RED], strict=True):
        assert near(picture, color, 8)


def test_two_loops_over_one_video_have_a_clock_each(tmp_path: Path) -> None:
    """Backgrounds are kept by the Matter that made the mattes."""
    scene = make_clip(tmp_path / "scene.mp4", frames=20, rate=10, width=64, height=48)
    frame = frame_from_rgb(np.zeros((48, 64, 3), np.uint8))
    nobody = matte_of(frame, np.zeros((18, 24), np.float32))

    def shown(stream: StreamKey, index: int) -> NDArray[np.uint8]:
        now = replace(frame, pts=index, time_base=Fraction(1, 10))
        return composite(now, replace(nobody, stream=stream), scene).planes[0]

    alone = [shown(StreamKey(), index).copy() for index in (0,)]
    one, other = StreamKey(), StreamKey()
    first = [shown(one, index).copy() for index in range(6)]
    again = [shown(one, 6).copy(), shown(other, 0).copy(), shown(one, 7).copy()]
    np.testing.assert_array_equal(again[1], alone[0])  # the second loop begins at the beginning
    np.testing.assert_array_equal(first[0], alone[0])
    assert np.abs(again[0].astype(int) - first[0]).mean() > 1
    assert np.abs(again[2].astype(int) - first[0]).mean() > 1  # and the first one goes on
