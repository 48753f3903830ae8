"""Colour conversions against code values derived from the standards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusematte.engine.frame import BT601, BT709, BT2020, PIXEL_FORMATS, Color, Frame, YuvMatrix
from fusematte.engine.pixels.color import convert_planes, frame_from_rgb, to_rgb, to_ycbcr

BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def rgb_picture(*colors: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One row, a pixel for each colour."""
    return np.array([colors], np.uint8)


def flat_frame(name: str, values: tuple[int, int, int], color: Color) -> Frame:
    layout = PIXEL_FORMATS[name]
    y, u, v = (np.full((2, 2), value, layout.dtype) for value in values)
    return Frame(planes=(y, u, v), format=layout, color=color)


def codes(frame: Frame) -> list[tuple[int, ...]]:
    """(Y, Cb, Cr) of each pixel of the first row."""
    return [tuple(int(plane[0, x]) for plane in frame.planes) for x in range(frame.width)]


def test_frame_from_rgb_is_full_range_bt709() -> None:
    frame = frame_from_rgb(rgb_picture(BLACK, WHITE, RED, GREEN, BLUE))
    # Kr = 0.2126, Kb = 0.0722.  Y = 255 times 0, 1, Kr, 0.7152, Kb: 0, 255, 54.2, 182.4, 18.4.
    # Cb = 128 + 255 (B - Y) / 1.8556, Cr = 128 + 255 (R - Y) / 1.5748:
    #   red:   Cb = 128 - 29.2 = 98.8, Cr = 128 + 127.5 = 255.5, held to 255
    #   green: Cb = 128 - 98.3 = 29.7, Cr = 128 - 115.8 = 12.2
    #   blue:  Cb = 255.5, held to 255, Cr = 128 - 11.7 = 116.3
    assert codes(frame) == [
        (0, 128, 128), (255, 128, 128), (54, 99, 255), (182, 30, 12), (18, 255, 116)
    ]  # fmt: skip
    assert (frame.format.name, frame.color.full_range, frame.matrix) == ("yuv444p", True, BT709)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        # BT.709, 16..235: Y = 16 + 219 Y', Cb = 128 + 224 (B' - Y') / 1.8556,
        # Cr = 128 + 224 (R' - Y') / 1.5748.
        (BLACK, (16, 128, 128)),
        (WHITE, (235, 128, 128)),
        # Y' = Kr = 0.2126: 16 + 46.56; 128 - 224 * 0.2126 / 1.8556 = 102.34; 128 + 112.
        (RED, (63, 102, 240)),
        # Y' = 0.7152: 16 + 156.63; 128 - 86.34 = 41.66; 128 - 101.73 = 26.27.
        (GREEN, (173, 42, 26)),
        # Y' = Kb = 0.0722: 16 + 15.81; 128 + 112; 128 - 10.27 = 117.73.
        (BLUE, (32, 240, 118)),
    ],
)
def test_studio_range_code_values(rgb: tuple[int, int, int], expected: tuple[int, ...]) -> None:
    source = frame_from_rgb(rgb_picture(rgb))
    target = flat_frame("yuv420p", (0, 0, 0), Color(matrix=1))
    got = [int(plane.item()) for plane in convert_planes(source.planes, source, target)]
    # The source's own rounding, and its clipped chroma, carry over: at most one code value.
    assert np.abs(np.subtract(got, expected)).max() <= 1


def test_ten_bits_are_four_times_eight_bits() -> None:
    # ITU-R BT.709-6, table 5.4: 10-bit black 64, white 940, neutral 512.
    source = frame_from_rgb(rgb_picture(WHITE))
    target = flat_frame("yuv420p10le", (0, 0, 0), Color(matrix=1))
    planes = convert_planes(source.planes, source, target)
    assert [plane.item() for plane in planes] == [940, 512, 512]
    assert {plane.dtype for plane in planes} == {np.dtype(np.uint16)}


@settings(max_examples=60, deadline=None)
@given(
    matrix=st.sampled_from([BT601, BT709, BT2020]), rgb=st.tuples(*[st.floats(0, 1, width=32)] * 3)
)
def test_to_ycbcr_undoes_to_rgb(matrix: YuvMatrix, rgb: tuple[float, float, float]) -> None:
    picture = np.array(rgb, np.float32).reshape(3, 1, 1)
    luma, chroma = to_ycbcr(picture, matrix)
    # H.273: E'Y = KR E'R + (1 - KR - KB) E'G + KB E'B.
    expected = matrix.red * rgb[0] + (1 - matrix.red - matrix.blue) * rgb[1] + matrix.blue * rgb[2]
    assert luma.item() == pytest.approx(expected, abs=1e-6)
    assert np.abs(chroma).max() <= 0.5 + 1e-6
    np.testing.assert_allclose(to_rgb(np.stack([luma, *chroma]), matrix), picture, atol=1e-5)


def test_same_representation_is_handed_through() -> None:
    frame = flat_frame("yuv420p", (90, 100, 200), Color(matrix=1))
    tagged = flat_frame("yuv444p", (0, 0, 0), Color(matrix=1, transfer=13))
    planes = convert_planes(frame.planes, frame, tagged)
    assert planes is frame.planes


@settings(max_examples=60, deadline=None)
@given(
    rgb=st.tuples(*[st.integers(0, 255)] * 3),
    names=st.tuples(*[st.sampled_from(["yuv444p", "yuv444p10le"])] * 2),
    matrices=st.tuples(*[st.sampled_from([(1, BT709), (6, BT601), (9, BT2020)])] * 2),
    full=st.tuples(st.booleans(), st.booleans()),
)
def test_convert_planes_shows_the_same_colour(
    rgb: tuple[int, int, int],
    names: tuple[str, str],
    matrices: tuple[tuple[int, YuvMatrix], tuple[int, YuvMatrix]],
    full: tuple[bool, bool],
) -> None:
    # The source's code values straight from the definition, in float64.
    number, matrix = matrices[0]
    red, green, blue = (value / 255 for value in rgb)
    luma = matrix.red * red + (1 - matrix.red - matrix.blue) * green + matrix.blue * blue
    cb, cr = (blue - luma) / (2 - 2 * matrix.blue), (red - luma) / (2 - 2 * matrix.red)
    bits = PIXEL_FORMATS[names[0]].bits
    scale, peak = 2 ** (bits - 8), 2**bits - 1
    if full[0]:
        exact = [luma * peak, 128 * scale + cb * peak, 128 * scale + cr * peak]
    else:
        exact = [(16 + 219 * luma) * scale, (128 + 224 * cb) * scale, (128 + 224 * cr) * scale]
    y, u, v = (int(np.clip(round(value), 0, peak)) for value in exact)
    source = flat_frame(names[0], (y, u, v), Color(matrix=number, full_range=full[0]))
    target = flat_frame(names[1], (0, 0, 0), Color(matrix=matrices[1][0], full_range=full[1]))

    converted = target.with_planes(convert_planes(source.planes, source, target))

    # And back to RGB from the definition: R = Y + 2 (1 - Kr) Cr and so on.
    number, matrix = matrices[1]
    bits = converted.format.bits
    scale, peak = 2 ** (bits - 8), 2**bits - 1
    y, u, v = (int(plane[0, 0]) for plane in converted.planes)
    assert converted.planes[0].dtype == converted.format.dtype
    if full[1]:
        luma, cb, cr = y / peak, (u - 128 * scale) / peak, (v - 128 * scale) / peak
    else:
        luma = (y / scale - 16) / 219
        cb, cr = (u / scale - 128) / 224, (v / scale - 128) / 224
    red = luma + 2 * (1 - matrix.red) * cr
    blue = luma + 2 * (1 - matrix.blue) * cb
    green = (luma - matrix.red * red - matrix.blue * blue) / (1 - matrix.red - matrix.blue)
    # Two roundings to 8-bit codes, each worth at most half a step of up to 1.9 / 219 in RGB.
    assert np.abs(np.array([red, green, blue]) * 255 - rgb).max() < 3


def test_convert_planes_keeps_subsampled_shapes() -> None:
    layout = PIXEL_FORMATS["yuv420p"]
    shapes = (5, 7), (3, 4), (3, 4)
    y, u, v = (np.full(shape, 128, np.uint8) for shape in shapes)
    source = Frame(planes=(y, u, v), format=layout, color=Color(matrix=6))
    target = Frame(planes=(y, u, v), format=layout, color=Color(matrix=1, full_range=True))
    planes = convert_planes(source.planes, source, target)
    assert tuple(plane.shape for plane in planes) == shapes
    # Gray has no chroma in any matrix; luma 128 of 16..235 is (128 - 16) / 219 * 255 = 130.4.
    assert [int(plane[0, 0]) for plane in planes] == [130, 128, 128]
