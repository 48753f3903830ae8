"""The kernels around the network, against NumPy references in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusematte.engine import pixels
from fusematte.engine.frame import BT601, BT709, PIXEL_FORMATS, Color, Frame, PixelFormat, Plane
from fusematte.engine.pixels import Coefficients

Reference = NDArray[np.float64]

formats = st.sampled_from(sorted(PIXEL_FORMATS))
sides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


def make_plane(
    rng: np.random.Generator, shape: tuple[int, int], layout: PixelFormat, padding: int
) -> Plane:
    """Noise over all code values, in rows that are ``padding`` samples apart."""
    height, width = shape
    rows = rng.integers(0, 1 << layout.bits, (height, width + padding), layout.dtype)
    rows.flags.writeable = False  # like the decoder's
    return rows[:, :width]


def make_frame(
    name: str, height: int, width: int, *, seed: int = 0, full: bool = False, padding: int = 0
) -> Frame:
    layout, rng = PIXEL_FORMATS[name], np.random.default_rng(seed)
    chroma = layout.chroma_shape(height, width)
    y, u, v = (make_plane(rng, s, layout, padding) for s in ((height, width), chroma, chroma))
    return Frame(planes=(y, u, v), format=layout, color=Color(full_range=full))


def noise(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


def interpolation(old: int, new: int) -> Reference:
    """[new, old]: weights of bilinear interpolation; a sample's value stands at its centre."""
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    left = np.floor(centre).astype(int)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), left), 1 - (centre - left))
    np.add.at(weights, (np.arange(new), np.minimum(left + 1, old - 1)), centre - left)
    return weights


def bilinear(picture: NDArray[np.floating], height: int, width: int) -> Reference:
    rows, columns = interpolation(picture.shape[0], height), interpolation(picture.shape[1], width)
    return rows @ picture.astype(np.float64) @ columns.T


def coverage(old: int, new: int) -> Reference:
    """[new, old]: the share of each old sample in each of fewer new ones."""
    edges = np.arange(new + 1)[:, None] * old / new
    inside = np.clip(edges - np.arange(old), 0, 1)
    return (inside[:-1] - inside[1:]) * new / old


def box_mean(picture: NDArray[np.floating], radius: int, border: str) -> Reference:
    """The mean of the (2 radius + 1)^2 window around every sample, from its definition."""
    padded = np.pad(picture.astype(np.float64), radius, mode=border)  # type: ignore[call-overload]
    size = 2 * radius + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    return windows.mean((2, 3))


@quick
@given(name=formats, full=st.booleans(), padding=st.integers(0, 9), seed=seeds, data=st.data())
def test_average_planes_is_the_area_average(
    name: str, full: bool, padding: int, seed: int, data: st.DataObject
) -> None:
    frame = make_frame(
        name, data.draw(sides), data.draw(sides), seed=seed, full=full, padding=padding
    )
    # No larger than the smallest plane: all planes shrink.
    height, width = (data.draw(st.integers(1, side)) for side in frame.planes[1].shape)
    luma, chroma = pixels.average_planes(frame, height, width)
    assert (luma.shape, chroma.shape) == ((height, width), (2, height, width))
    assert luma.dtype == chroma.dtype == np.float32
    black, luma_span, neutral, chroma_span = frame.levels
    y, u, v = (
        coverage(plane.shape[0], height) @ plane @ coverage(plane.shape[1], width).T
        for plane in frame.planes
    )
    # Averages are rounded to code values.
    assert np.abs(luma - np.clip((y - black) / luma_span, 0, 1)).max() < 0.52 / luma_span
    assert np.abs(chroma - (np.stack([u, v]) - neutral) / chroma_span).max() < 0.52 / chroma_span


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_average_planes_enlarges_a_single_pixel(name: str) -> None:
    frame = make_frame(name, 1, 1, full=True)
    luma, chroma = pixels.average_planes(frame, 32, 64)
    assert np.unique(luma).tolist() == pytest.approx([frame.planes[0].item() / frame.levels[1]])
    assert np.ptp(chroma[0]) == np.ptp(chroma[1]) == 0


def test_average_planes_of_a_picture_stored_upside_down() -> None:
    frame = make_frame("yuv420p", 8, 6)
    flipped = frame.with_planes(tuple(plane[::-1].copy()[::-1] for plane in frame.planes))
    assert flipped.planes[0].strides[0] < 0
    for a, b in zip(
        pixels.average_planes(frame, 4, 3), pixels.average_planes(flipped, 4, 3), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("matrix", [BT601, BT709])
def test_to_rgb_of_primaries(matrix: tuple[float, float]) -> None:
    # The definition of YCbCr for pure red: Y = Kr, Cb = -Kr / (2 (1 - Kb)), Cr = 1/2;
    # for pure blue: Y = Kb, Cb = 1/2, Cr = -Kb / (2 (1 - Kr)); for gray: Cb = Cr = 0.
    red, blue = matrix
    luma = np.array([[red, blue, 0.25]], np.float32)
    chroma = np.array(
        [[[-red / (2 * (1 - blue)), 0.5, 0]], [[0.5, -blue / (2 * (1 - red)), 0]]], np.float32
    )
    rgb = pixels.to_rgb(luma, chroma, BT601 if red == BT601.red else BT709)
    expected = [[1, 0, 0], [0, 0, 1], [0.25, 0.25, 0.25]]
    np.testing.assert_allclose(rgb[:, 0].T, expected, atol=1e-6)


def test_to_rgb_clips_what_no_screen_shows() -> None:
    rgb = pixels.to_rgb(np.ones((1, 1), np.float32), np.full((2, 1, 1), 0.5, np.float32), BT709)
    assert rgb.max() == 1
    rgb = pixels.to_rgb(np.zeros((1, 1), np.float32), np.full((2, 1, 1), 0.5, np.float32), BT709)
    assert rgb.min() == 0


@quick
@given(
    height=st.integers(3, 24),
    width=st.integers(3, 24),
    radius=st.integers(1, 4),
    epsilon=st.sampled_from([1e-4, 1e-3, 1e-2]),
    seed=seeds,
)
def test_guided_coefficients_are_those_of_the_definition(
    height: int, width: int, radius: int, epsilon: float, seed: int
) -> None:
    guide, alpha = noise(seed, height, width), noise(seed + 1, height, width)
    got = pixels.guided_coefficients(guide, alpha, radius, epsilon)

    def windows(picture: NDArray[np.float32]) -> Reference:
        padded = np.pad(picture.astype(np.float64), radius, mode="symmetric")
        return np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2)

    # He, Sun, Tang: a_k = cov(I, p) / (var(I) + epsilon), b_k = mean(p) - a_k mean(I), over the
    # window of k; a pixel takes the means of a and b over the windows it lies in.
    i, p = windows(guide), windows(alpha)
    mean_i, mean_p = i.mean((2, 3)), p.mean((2, 3))
    covariance = ((i - mean_i[..., None, None]) * (p - mean_p[..., None, None])).mean((2, 3))
    slope = covariance / (i.var((2, 3)) + epsilon)
    offset = mean_p - slope * mean_i
    np.testing.assert_allclose(got.slope, box_mean(slope, radius, "symmetric"), atol=2e-4)
    np.testing.assert_allclose(got.offset, box_mean(offset, radius, "symmetric"), atol=2e-4)


def test_guided_coefficients_of_a_flat_alpha_ignore_the_guide() -> None:
    got = pixels.guided_coefficients(noise(0, 9, 9), np.full((9, 9), 0.25, np.float32), 2, 1e-4)
    np.testing.assert_allclose(got.slope, 0, atol=1e-3)
    np.testing.assert_allclose(got.offset, 0.25, atol=1e-3)


@quick
@given(
    name=formats,
    full=st.booleans(),
    height=sides,
    width=sides,
    padding=st.integers(0, 9),
    seed=seeds,
)
def test_apply_coefficients_in_every_layout(
    name: str, full: bool, height: int, width: int, padding: int, seed: int
) -> None:
    frame = make_frame(name, height, width, seed=seed, full=full, padding=padding)
    slope, offset = 4 * noise(seed, 6, 5) - 2, 2 * noise(seed + 1, 6, 5) - 1
    got = pixels.apply_coefficients(Coefficients(slope, offset), frame)
    black, span, _, _ = frame.levels
    luma = (frame.planes[0].astype(np.float64) - black) / span
    expected = bilinear(slope, height, width) * luma + bilinear(offset, height, width)
    assert (got.shape, got.dtype) == ((height, width), np.float32)
    np.testing.assert_allclose(got, np.clip(expected, 0, 1), atol=1e-5)


def test_apply_coefficients_leaves_them_as_they_are() -> None:
    frame = make_frame("yuv420p", 4, 4)
    coefficients = Coefficients(noise(0, 4, 4), noise(1, 4, 4))
    copies = [part.copy() for part in coefficients]
    pixels.apply_coefficients(coefficients, frame)  # at the same size nothing needs to be resized
    for part, copy in zip(coefficients, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


@quick
@given(old=st.tuples(sides, sides), new=st.tuples(sides, sides), seed=seeds)
def test_enlarge_is_bilinear(old: tuple[int, int], new: tuple[int, int], seed: int) -> None:
    picture = noise(seed, *old)
    got = pixels.enlarge(picture, *new)
    np.testing.assert_allclose(got, bilinear(picture, *new), atol=1e-5)


@quick
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=seeds)
def test_estimate_foreground_is_blur_fusion(height: int, width: int, seed: int) -> None:
    color, alpha = noise(seed, 3, height, width), noise(seed + 1, height, width)
    got = pixels.estimate_foreground(color, alpha)
    # Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021, equations 4 to 6, applied
    # twice: F^ and B^ are weighted local means; F = F^ + alpha (I - alpha F^ - (1 - alpha) B^).
    foreground = background = color.astype(np.float64)
    a = alpha.astype(np.float64)
    for radius in pixels.FOREGROUND_RADII:
        share = box_mean(a, radius, "reflect")
        mean_f = np.stack([box_mean(c * a, radius, "reflect") for c in foreground])
        mean_b = np.stack([box_mean(c * (1 - a), radius, "reflect") for c in background])
        mean_f, background = mean_f / (share + 1e-5), mean_b / (1 - share + 1e-5)
        foreground = mean_f + a * (color - a * mean_f - (1 - a) * background)
    np.testing.assert_allclose(got, foreground, atol=2e-4)


def test_estimate_foreground_unmixes_two_flat_colours() -> None:
    person, wall = np.array([0.8, 0.3, 0.2]), np.array([0.1, 0.2, 0.9])
    alpha = np.tile(np.clip((np.arange(64) - 24) / 16, 0, 1), (48, 1)).astype(np.float32)
    mixed = alpha * person[:, None, None] + (1 - alpha) * wall[:, None, None]
    got = pixels.estimate_foreground(mixed.astype(np.float32), alpha)
    edge = alpha > 0.2
    before, after = (np.abs(x - person[:, None, None])[:, edge].max() for x in (mixed, got))
    assert after < before / 10


@pytest.mark.parametrize(("bits", "peak", "dtype"), [(8, 255, np.uint8), (10, 1023, np.uint16)])
def test_quantise_alpha_rounds_to_the_nearest_code(bits: int, peak: int, dtype: type) -> None:
    codes = np.array([[0, 1, peak // 2, peak - 1, peak]])
    for error in (-0.4, 0.0, 0.4):
        alpha = np.clip((codes + error) / peak, 0, 1).astype(np.float32)
        got = pixels.quantise_alpha(alpha, bits)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, codes)


@quick
@given(name=formats, rows=st.integers(1, 20), columns=st.integers(1, 20), seed=seeds)
def test_subsample_is_the_mean_over_the_luma_samples(
    name: str, rows: int, columns: int, seed: int
) -> None:
    layout = PIXEL_FORMATS[name]
    alpha = noise(seed, rows << layout.y_shift, columns << layout.x_shift)
    got = pixels.subsample(alpha, layout)
    blocks = alpha.reshape(rows, 1 << layout.y_shift, columns, 1 << layout.x_shift)
    np.testing.assert_allclose(got, blocks.mean((1, 3), np.float64), atol=1e-6)


@quick
@given(name=formats, height=sides, width=sides, value=st.floats(0, 1, width=32))
def test_subsample_keeps_a_flat_alpha_at_odd_sizes(
    name: str, height: int, width: int, value: float
) -> None:
    layout = PIXEL_FORMATS[name]
    got = pixels.subsample(np.full((height, width), value, np.float32), layout)
    assert got.shape == layout.chroma_shape(height, width)
    np.testing.assert_allclose(got, value, atol=1e-6)


@quick
@given(
    name=formats,
    height=sides,
    width=sides,
    padding=st.integers(0, 9),
    flat=st.booleans(),
    seed=seeds,
)
def test_blend_is_the_compositing_equation(
    name: str, height: int, width: int, padding: int, flat: bool, seed: int
) -> None:
    frame = make_frame(name, height, width, seed=seed, padding=padding)
    background = make_frame(name, *((1, 1) if flat else (height, width)), seed=seed + 1).planes
    alpha = noise(seed, height, width)
    peak = (1 << frame.format.bits) - 1
    shift = (noise(seed + 2, 3, 4, 5) - 0.5) * peak / 4
    got = pixels.blend(frame, alpha, shift, background)
    small = pixels.subsample(alpha, frame.format).astype(np.float64)
    weights = (alpha.astype(np.float64), small, small)
    for index, weight in enumerate(weights):
        plane = frame.planes[index].astype(np.float64)
        person = np.clip(plane + bilinear(shift[index], *plane.shape), 0, peak)
        exact = weight * person + (1 - weight) * background[index]
        assert got.planes[index].dtype == frame.format.dtype
        assert np.abs(got.planes[index] - exact).max() < 0.51
    assert (got.format, got.color, got.pts) == (frame.format, frame.color, frame.pts)


@quick
@given(name=formats, height=sides, width=sides, seed=seeds)
def test_blend_at_the_ends_of_alpha(name: str, height: int, width: int, seed: int) -> None:
    frame = make_frame(name, height, width, seed=seed)
    other = make_frame(name, height, width, seed=seed + 1)
    none = np.zeros((3, 4, 5), np.float32)
    opaque = pixels.blend(frame, np.ones((height, width), np.float32), none, other.planes)
    for got, plane in zip(opaque.planes, frame.planes, strict=True):
        assert np.abs(got.astype(int) - plane).max() <= 1
    gone = pixels.blend(frame, np.zeros((height, width), np.float32), none + 9, other.planes)
    for got, plane in zip(gone.planes, other.planes, strict=True):
        np.testing.assert_array_equal(got, plane)
