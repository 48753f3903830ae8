"""Every compiled instruction set against the float64 reference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusematte import cpp_ext
from fusematte.cpp_ext import reference

from .strategies import LAYOUTS, MATRICES, Case, cases, patchy_alpha

relaxed = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


*OTHERS, FASTEST = cpp_ext.instruction_sets()
"""Jobs take the fastest on their own; the others are for other processors."""


@pytest.fixture(
    params=[FASTEST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)],
    autouse=True,
)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    cpp_ext.use_instruction_set(request.param)
    yield
    cpp_ext.use_instruction_set(FASTEST)


@relaxed
@given(case=cases(), matrix=st.sampled_from(MATRICES))
def test_resize_to_tensor(case: Case, matrix: tuple[float, float]) -> None:
    planes = case.planes(case.random())
    size = case.low_height, case.low_width
    expected = reference.resize_to_tensor(planes, *size, matrix, case.levels)
    result = cpp_ext.resize_to_tensor(
        planes, *size, matrix=matrix, levels=case.levels, threads=case.threads
    )
    for array, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(array, wanted, atol=1e-5)
    alone = cpp_ext.resize_to_ycbcr(planes, *size, levels=case.levels, threads=case.threads)
    np.testing.assert_array_equal(alone, result.ycbcr)


@pytest.mark.parametrize("layout", ["yuv420p", "nv12", "yuv444p10le", "p010"])
@pytest.mark.parametrize("height", [127, 128, 257, 263, 1080])
def test_resize_to_tensor_holds_the_largest_sums(layout: str, height: int) -> None:
    case = Case(layout, height, 1920 if height == 1080 else 150, 16, 20, 5, True, 0, 2)
    low = (288, 512) if height == 1080 else (13 + height % 2, 40)
    planes = case.planes(case.random())
    planes[0][:] = int(case.levels[1]) << (6 if layout == "p010" else 0)
    planes[0][-1] = 0
    expected = reference.resize_to_tensor(planes, *low, MATRICES[1], case.levels)
    result = cpp_ext.resize_to_tensor(planes, *low, matrix=MATRICES[1], levels=case.levels)
    for array, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(array, wanted, atol=1e-5)


def test_resize_to_tensor_writes_into_given_arrays() -> None:
    planes = Case("nv12", 36, 64, 9, 16, 1, False, 0, 1)
    rgb, ycbcr = np.empty((3, 9, 16), np.float32), np.empty((3, 9, 16), np.float32)
    result = cpp_ext.resize_to_tensor(
        planes.planes(planes.random()), 9, 16,
        matrix=MATRICES[0], levels=planes.levels, rgb=rgb, ycbcr=ycbcr,
    )  # fmt: skip
    assert result.rgb is rgb and result.ycbcr is ycbcr
    assert np.isfinite(rgb).all() and np.ptp(rgb) > 0


@relaxed
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    epsilon=st.sampled_from([1e-2, 1e-4, 1e-6]),
    threads=st.integers(1, 8),
    data=st.data(),
)
def test_guided_coefficients(
    height: int, width: int, epsilon: float, threads: int, data: st.DataObject
) -> None:
    radius = data.draw(st.integers(1, min(height, width)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    contrast = data.draw(st.sampled_from([1, 0.01, 0]))
    guide = (0.9 - contrast * random.random((height, width))).astype(np.float32)
    alpha = patchy_alpha(random, height, width)
    expected = reference.guided_coefficients(guide, alpha, radius, epsilon)
    result = cpp_ext.guided_coefficients(guide, alpha, radius, epsilon, threads=threads)
    for array, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-5)


@relaxed
@given(
    half=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    epsilon=st.sampled_from([1e-2, 1e-4, 1e-5]),
    threads=st.integers(1, 8),
    data=st.data(),
)
def test_guided_alpha(
    half: tuple[int, int], epsilon: float, threads: int, data: st.DataObject
) -> None:
    radius = data.draw(st.integers(1, min(half)))
    height, width = (2 * side for side in half)
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    contrast = data.draw(st.sampled_from([1, 0.1, 0]))
    guide = (0.9 - contrast * random.random((3, height, width))).astype(np.float32)
    alpha = patchy_alpha(random, height, width)
    certain = data.draw(st.sampled_from([0.01, 0.5, 1]))
    expected = reference.guided_alpha(guide, alpha, radius, epsilon, certain)
    result = cpp_ext.guided_alpha(guide, alpha, radius, epsilon, certain=certain, threads=threads)
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("channel", range(3))
def test_alpha_is_drawn_to_the_edge_of_any_channel(channel: int) -> None:
    guide = np.full((3, 40, 50), 0.3, np.float32)
    guide[channel, :, 20:] = 0.5
    truth = np.float32(guide[channel] > 0.4)
    soft = np.float32(np.clip((np.arange(50) - 15) / 8, 0, 1) * np.ones((40, 1)))
    before, after = (
        np.abs(alpha - truth).mean()
        for alpha in (soft, cpp_ext.guided_alpha(guide, soft, 3, 1e-6, certain=0.05))
    )
    assert after < 0.7 * before


def test_solid_areas_stay_solid() -> None:
    random = np.random.default_rng(0)
    guide = random.random((3, 40, 50), np.float32)
    alpha = np.round(random.random((40, 50), np.float32))
    np.testing.assert_array_equal(cpp_ext.guided_alpha(guide, alpha, 4, 1e-5, certain=0.05), alpha)


def test_the_guided_filter_finds_the_line_that_explains_a_matte() -> None:
    guide = np.zeros((40, 50), np.float32)
    guide[:, 20:] = 0.8
    alpha = guide / np.float32(0.8)
    slope, offset = cpp_ext.guided_coefficients(guide, alpha, 4, 1e-6)
    # Of the nine columns of windows around these two all but one have the edge in them.
    np.testing.assert_allclose(slope[:, 19:21], 8 / 9 / 0.8, rtol=0.01)
    np.testing.assert_allclose(slope * guide + offset, alpha, atol=1e-6)
    assert not slope[:, :11].any() and not slope[:, 29:].any()


@relaxed
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    threads=st.integers(1, 8),
    centred=st.booleans(),
    data=st.data(),
)
def test_estimate_foreground(
    height: int, width: int, threads: int, centred: bool, data: st.DataObject
) -> None:
    radii = data.draw(st.lists(st.integers(1, min(height, width)), min_size=1, max_size=3))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    color = random.random((3, height, width)).astype(np.float32)
    bounds = ((0.0, 1.0),) * 3
    if centred:
        color[1:] -= 0.5
        bounds = ((0.0, 1.0), (-0.5, 0.5), (-0.5, 0.5))
    alpha = np.clip(random.normal(0.5, 1, (height, width)), 0, 1).astype(np.float32)
    expected = reference.estimate_foreground(color, alpha, radii, bounds)
    result = cpp_ext.estimate_foreground(color, alpha, radii, bounds=bounds, threads=threads)
    for array, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(array, wanted, atol=1e-5)


def test_estimate_foreground_takes_the_background_out_of_a_soft_edge() -> None:
    alpha = np.tile(np.clip((np.arange(64, dtype=np.float32) - 24) / 16, 0, 1), (48, 1))
    near, far = np.float32([0.8, 0.3, 0.2]), np.float32([0.1, 0.9, 0.1])
    color = np.stack([alpha * f + (1 - alpha) * b for f, b in zip(near, far, strict=True)])
    foreground, _ = cpp_ext.estimate_foreground(color, alpha, (24, 2))
    mixed = (alpha > 0.1) & (alpha < 0.9)
    error = np.abs(foreground - near[:, None, None])[:, mixed].mean()
    assert error < 0.25 * np.abs(color - near[:, None, None])[:, mixed].mean()


@relaxed
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    searched=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    channels=st.sampled_from([(), (2,), (4,)]),
    far=st.sampled_from([0, 1, 30]),
    threads=st.integers(1, 8),
    seed=st.integers(0, 2**16),
)
def test_move(
    size: tuple[int, int],
    searched: tuple[int, int],
    channels: tuple[int, ...],
    far: float,
    threads: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    planes = random.random((*size, *channels)).astype(np.float32)
    flow = random.normal(0, far, (*searched, 2)).astype(np.float32)
    moved = cpp_ext.move(planes, flow, threads=threads)
    np.testing.assert_allclose(moved, reference.move(planes, flow), atol=1e-4)


@pytest.mark.parametrize("far", [1e6, -1e6, 3e38, -3e38])
def test_what_comes_from_far_outside_is_the_nearest_corner(far: float) -> None:
    planes = np.random.default_rng(0).random((30, 50, 4), np.float32)
    moved = cpp_ext.move(planes, np.full((15, 25, 2), far, np.float32))
    corner = planes[-1, -1] if far > 0 else planes[0, 0]
    np.testing.assert_array_equal(moved, np.broadcast_to(corner[:, None, None], moved.shape))


def test_without_motion_nothing_moves() -> None:
    planes = np.random.default_rng(0).random((30, 50, 4), np.float32)
    still = cpp_ext.move(planes, np.zeros((15, 25, 2), np.float32))
    np.testing.assert_array_equal(still, np.moveaxis(planes, 2, 0))


def test_what_moved_to_the_right_was_on_the_left() -> None:
    before = np.zeros((20, 40), np.float32)
    before[5:10, 8:16] = 1
    # Flow at half the size: 3 of its pixels are 6 of the picture's.
    flow = np.tile(np.float32([-3, 1]), (10, 20, 1))
    now = np.zeros_like(before)
    now[3:8, 14:22] = 1
    np.testing.assert_array_equal(cpp_ext.move(before, flow), now)


@relaxed
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    whole=st.booleans(),
    alike=st.sampled_from([0.0, 0.6, 0.95, 1.0]),
    unfit=st.sampled_from([0.01, 0.3]),
    threads=st.integers(1, 8),
    data=st.data(),
)
def test_blend_moved(
    size: tuple[int, int],
    whole: bool,
    alike: float,
    unfit: float,
    threads: int,
    data: st.DataObject,
) -> None:
    radius = data.draw(st.integers(1, min(size)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    luma = random.random(size, np.float32)
    first, second = random.random((2, 4 if whole else 2, *size), np.float32)
    if whole:  # here and there F + B is 1, so that beta can be anything
        first[1:3, 0] = second[1:3, 0] = 0.5
    near = first + random.uniform(-0.001, 0.001, first.shape).astype(np.float32)
    second = np.where(random.random(size) < alike, near if alike < 1 else first, second)
    settings = {"radius": radius, "noise": 0.01, "unfit": unfit}
    maps, conflict = reference.blend_moved(luma, first, second, **settings)
    moved = cpp_ext.blend_moved(luma, first, second, **settings, threads=threads)
    for got, wanted in zip(moved[: len(maps)], maps, strict=True):
        assert got is not None
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    if moved.beta is None:
        assert not whole
    else:
        _, fore, back = maps
        # Where F + B is nearly 1, rounding decides about beta, and beta about nothing.
        sure = (np.abs(fore + back - 1) > 1e-3) | (fore + back == 1)
        beta = reference.fusion_weight(*maps)
        np.testing.assert_allclose(moved.beta[sure], beta[sure], atol=1e-3)
    misfits = reference.box_mean(np.abs(np.stack([first[-1], second[-1]]) - luma), radius).min(0)
    sure = np.abs(misfits - unfit) > 1e-5
    np.testing.assert_allclose(moved.conflict[sure], conflict[sure], atol=1e-5)
    assert not moved.conflict.any() or alike < 1


@relaxed
@given(
    case=cases(),
    kind=st.sampled_from(["planes", "constant", "small", "none"]),
    shifted=st.sampled_from([0, 0.1, 40]),
    keep_solid=st.booleans(),
    with_alpha=st.booleans(),
)
def test_composite(
    case: Case, kind: str, shifted: float, keep_solid: bool, with_alpha: bool
) -> None:
    random = case.random()
    planes, background = case.planes(random), case.planes(random)
    slope, offset = case.coefficients(random)
    small = 3, *random.integers(1, 30, 2)
    shift = random.uniform(-shifted, shifted, small).astype(np.float32)
    given_background = background
    if kind == "none":
        background = given_background = None
    if kind == "small":
        background = given_background = random.uniform(-9, 300, small).astype(np.float32)
    if kind == "constant":
        given_background = tuple(int(value) for value in random.integers(0, 256, 3))
        background = [
            np.full(plane.shape, value)
            for plane, value in zip(reference.split(planes), given_background, strict=True)
        ]
    expected, expected_alpha = reference.composite(
        planes, slope, offset, background, case.levels, shift if shifted else None, keep_solid
    )
    alpha = np.full_like(planes[0], 7) if with_alpha else None
    result = cpp_ext.composite(
        planes, slope, offset, given_background, levels=case.levels,
        shift=shift if shifted else None, keep_solid=keep_solid, alpha=alpha, threads=case.threads,
    )  # fmt: skip
    for plane, wanted in zip(reference.split(result), expected, strict=True):
        np.testing.assert_allclose(plane.astype(int), wanted, atol=1)
    if alpha is not None:
        np.testing.assert_allclose(alpha.astype(int), expected_alpha, atol=1)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("value", [0, 1])
def test_composite_copies_where_alpha_is_hard(layout: str, value: int) -> None:
    case = Case(layout, 45, 301, 12, 40, 3, False, 3, 2)
    random = case.random()
    planes, background = case.planes(random), case.planes(random)
    slope = np.zeros((12, 40), np.float32)
    result = cpp_ext.composite(planes, slope, slope + value, background, levels=case.levels)
    for plane, wanted in zip(result, planes if value else background, strict=True):
        np.testing.assert_array_equal(plane, wanted)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("has_background", [True, False])
def test_composite_keeps_what_is_solid(layout: str, has_background: bool) -> None:
    case = Case(layout, 45, 301, 12, 40, 3, False, 3, 2)
    random = case.random()
    planes, background = case.planes(random), case.planes(random)
    offset = np.ones((12, 40), np.float32)
    offset[:, :20] = 0.999  # rounds to the peak in 8 bits alone
    offset[:, :8] = 0
    alpha = np.empty_like(planes[0])
    result = cpp_ext.composite(
        planes, offset * 0, offset, background if has_background else None,
        levels=case.levels, shift=np.full((3, 4, 4), 30, np.float32), keep_solid=True, alpha=alpha,
    )  # fmt: skip
    peak = 255 if alpha.dtype == np.uint8 else 1023
    assert (alpha == peak).mean() > 0.4
    solid = reference.co_sited_mean(alpha == peak, planes[1].shape[:2]) == 1
    for index, (plane, own) in enumerate(zip(result, planes, strict=True)):
        where = solid if index else alpha == peak
        np.testing.assert_array_equal(plane[where], own[where])
        assert (plane[~where] != own[~where]).mean() > 0.3


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_composite_does_not_depend_on_threads(layout: str) -> None:
    case = Case(layout, 97, 250, 20, 30, 4, False, 0, 1)
    random = case.random()
    planes, background = case.planes(random), case.planes(random)
    slope, offset = case.coefficients(random)
    results = [
        cpp_ext.composite(planes, slope, offset, background, levels=case.levels, threads=threads)
        for threads in range(1, 9)
    ]
    for result in results[1:]:
        for plane, wanted in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(plane, wanted)
