"""The CUDA kernels against the float64 reference: their source compiled as plain C++ and run on the
CPU, and where there is an NVIDIA GPU on that."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusematte.cpp_ext import cuda, reference
from fusematte.engine.backends.tensorrt.plugin import run_plugin
from fusematte.engine.compositing.look import TINT, despilled, wrap_sigma, wrapped
from fusematte.engine.cuda.driver import CudaDriver
from fusematte.engine.cuda.probe import why_no_cuda
from fusematte.engine.stages.gpu_maps import gaussian
from tests.device import compiled_for_the_host

from .strategies import LAYOUTS, MATRICES, Case, cases, patchy_alpha

Array = NDArray[Any]

relaxed = settings(deadline=None, max_examples=60)


class ArrayDevice(cuda.Device, Protocol):
    """A device with arrays in its memory."""

    def place(self, array: Array) -> tuple[int, int]:
        """The address of an array's first row, and the bytes from row to row."""

    def fetch(self, array: Array, address: int) -> None:
        """Makes an array that was placed see what kernels wrote."""


class GpuDevice(CudaDriver):
    """The same on the GPU: arrays are copied, with the gap between their rows."""

    def __init__(self) -> None:
        super().__init__()
        self._placed: list[object] = []

    def place(self, array: Array) -> tuple[int, int]:
        stride, width = abs(array.strides[0]), array[0].nbytes
        rows = np.zeros((len(array), max(stride, width)), np.uint8)
        rows[:, :width] = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
        self._placed.append(self.allocate(rows.nbytes))
        self.upload(rows, int(self._placed[-1]))
        return int(self._placed[-1]), rows.strides[0]

    def fetch(self, array: Array, address: int) -> None:
        self.download(address, array)
        self.wait()
        self.begin_frame()


@pytest.fixture(scope="module", params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ArrayDevice]:
    if request.param == "host":
        yield compiled_for_the_host(tmp_path_factory.mktemp("device"))
        return
    if reason := why_no_cuda() or cuda.why_no_kernels():
        pytest.skip(reason)
    with closing(GpuDevice()) as gpu, gpu.current():
        yield gpu


def layout_of(case: Case, planes: Sequence[Array]) -> cuda.Layout:
    low_bits = 6 if case.layout == "p010" else 0
    bits, pairs = LAYOUTS[case.layout][2], len(planes) == 2
    return cuda.Layout(*planes[0].shape, *planes[1].shape[:2], bits, low_bits, pairs)


def planes_of(device: ArrayDevice, planes: Sequence[Array]) -> cuda.Planes:
    result = cuda.Planes()
    for i, plane in enumerate(planes):
        result.data[i], result.stride[i] = device.place(plane)
    return result


def grid_of(device: ArrayDevice, array: Array | None) -> cuda.Grid:
    return cuda.Grid() if array is None else cuda.Grid(device.place(array)[0], *array.shape[-2:])


@relaxed
@given(case=cases(40, 120), matrix=st.sampled_from(MATRICES))
def test_resize_to_tensor(device: ArrayDevice, case: Case, matrix: tuple[float, float]) -> None:
    planes = case.planes(case.random())
    size = case.low_height, case.low_width
    rgb, ycbcr = np.empty((3, *size), np.float32), np.empty((3, *size), np.float32)
    job = cuda.ResizeJob(
        layout_of(case, planes), planes_of(device, planes), cuda.Levels(*case.levels),
        cuda.Matrix(*matrix), *size, device.place(rgb)[0], device.place(ycbcr)[0],
    )  # fmt: skip
    cuda.resize_to_tensor(device, job)
    device.fetch(rgb, job.rgb)
    device.fetch(ycbcr, job.ycbcr)
    expected = reference.resize_to_tensor(planes, *size, matrix, case.levels)
    np.testing.assert_allclose(rgb, expected[0], atol=1e-5)
    np.testing.assert_allclose(ycbcr, expected[1], atol=1e-5)


@relaxed
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_guided_coefficients(
    device: ArrayDevice, height: int, width: int, seed: int, data: st.DataObject
) -> None:
    radius = data.draw(st.integers(1, min(height, width)))
    random = np.random.default_rng(seed)
    guide = random.random((height, width), np.float32)
    alpha = patchy_alpha(random, height, width)
    slope, offset = np.empty_like(guide), np.empty_like(alpha)
    pointers = (device.place(array)[0] for array in (guide, alpha, slope, offset))
    job = cuda.GuidedJob(height, width, radius, 1e-4, *pointers)
    cuda.guided_coefficients(device, job)
    device.fetch(slope, job.slope)
    device.fetch(offset, job.offset)
    expected = reference.guided_coefficients(guide, alpha, radius, 1e-4)
    np.testing.assert_allclose(slope, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(offset, expected[1], rtol=1e-5, atol=1e-5)


@relaxed
@given(half=st.tuples(st.integers(1, 40), st.integers(1, 40)), data=st.data())
def test_guided_alpha(device: ArrayDevice, half: tuple[int, int], data: st.DataObject) -> None:
    radius = data.draw(st.integers(1, min(half)))
    height, width = (2 * side for side in half)
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    guide = random.random((3, height, width), np.float32)
    alpha = patchy_alpha(random, height, width)
    out = np.empty_like(alpha)
    pointers = (device.place(array)[0] for array in (guide, alpha, out))
    job = cuda.GuidedAlphaJob(height, width, radius, 0.1, 1e-4, *pointers)
    cuda.guided_alpha(device, job)
    device.fetch(out, job.out)
    expected = reference.guided_alpha(guide, alpha, radius, 1e-4, 0.1)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_the_layer_of_tensorrt(device: ArrayDevice) -> None:
    random = np.random.default_rng(0)
    guide, alpha = (random.random((2, channels, 14, 18), np.float32) for channels in (3, 1))
    guided = np.empty_like(alpha)
    *addresses, result = (device.place(array)[0] for array in (guide, alpha, guided))
    run_plugin(device, (2, 0.1, 1e-3), alpha.shape, addresses, result)
    device.fetch(guided, result)
    for index in range(2):
        expected = reference.guided_alpha(guide[index], alpha[index, 0], 2, 1e-3, 0.1)
        np.testing.assert_allclose(guided[index, 0], expected, atol=1e-4)


@relaxed
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**16), data=st.data()
)
def test_estimate_foreground(
    device: ArrayDevice, height: int, width: int, seed: int, data: st.DataObject
) -> None:
    radii = data.draw(st.lists(st.integers(1, min(height, width)), min_size=1, max_size=3))
    random = np.random.default_rng(seed)
    color = random.random((3, height, width), np.float32)
    alpha = np.clip(random.normal(0.5, 1, (height, width)), 0, 1).astype(np.float32)
    foreground, background = np.empty_like(color), np.empty_like(color)
    limits = (ctypes.c_float * 3)(0, 0, 0), (ctypes.c_float * 3)(1, 1, 1)
    pointers = (device.place(array)[0] for array in (color, alpha, foreground, background))
    job = cuda.ForegroundJob(height, width, None, 0, *limits, *pointers)
    cuda.estimate_foreground(device, job, radii)
    device.fetch(foreground, job.foreground)
    device.fetch(background, job.background)
    expected = reference.estimate_foreground(color, alpha, radii)
    np.testing.assert_allclose(foreground, expected[0], atol=1e-5)
    np.testing.assert_allclose(background, expected[1], atol=1e-5)


@dataclass(frozen=True)
class Colors:
    """Of a small picture: [3, h, w], Y'CbCr; ``alpha`` [h, w]."""

    color: Array
    old: Array
    alpha: Array


@st.composite
def colors(draw: st.DrawFn) -> Colors:
    shape = draw(st.integers(2, 40)), draw(st.integers(2, 70))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    span = np.array([1, 0.5, 0.5])[:, None, None]
    pictures = span * random.uniform(-1, 1, (3, *shape)) + span * random.normal(0, 0.3, (3, 1, 1))
    other = span * random.uniform(-0.2, 0.2, (3, *shape)) + span * random.normal(0, 0.1, (3, 1, 1))
    alpha = np.clip(random.normal(0.5, 1, shape), 0, 1)
    return Colors(*(np.ascontiguousarray(a, np.float32) for a in (pictures, other, alpha)))


@relaxed
@given(given=colors(), strength=st.floats(0.1, 1))
def test_despill(device: ArrayDevice, given: Colors, strength: float) -> None:
    expected = despilled(given.color, given.old, given.alpha, strength)
    result = given.color.copy()
    pointers = (device.place(array)[0] for array in (given.color, given.alpha, result, given.old))
    limits = (ctypes.c_float * 3)(), (ctypes.c_float * 3)()
    job = cuda.ForegroundJob(*given.alpha.shape, None, 0, *limits, *pointers)
    cuda.despill(device, job, strength, TINT)
    device.fetch(result, job.foreground)
    np.testing.assert_allclose(result, expected, atol=1e-4)


@relaxed
@given(given=colors(), strength=st.floats(0.1, 1))
def test_light_wrap(device: ArrayDevice, given: Colors, strength: float) -> None:
    result, taps = np.empty_like(given.color), gaussian(wrap_sigma(given.alpha.shape))
    placed = (given.old, given.alpha, given.color, result)
    pointers = [device.place(array)[0] for array in placed]
    weights = device.place(taps[None])[0]
    job = cuda.WrapJob(*given.alpha.shape, len(taps) // 2, weights, strength, *pointers)
    cuda.light_wrap(device, job)
    device.fetch(result, job.lit)
    expected = wrapped(given.color, given.old, given.alpha, strength)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@relaxed
@given(given=colors(), quarters=st.integers(1, 3))
def test_turn(device: ArrayDevice, given: Colors, quarters: int) -> None:
    expected = np.rot90(given.color, quarters, (1, 2))
    result = np.empty(expected.shape, np.float32)
    source, target = (device.place(array)[0] for array in (given.color, result))
    cuda.turn(device, source, given.color.shape, target, quarters)
    device.fetch(result, target)
    np.testing.assert_array_equal(result, expected)


@relaxed
@given(given=colors(), entries=st.integers(2, 50))
def test_apply_curve(device: ArrayDevice, given: Colors, entries: int) -> None:
    table = np.sqrt(np.linspace(0, 1, entries, dtype=np.float32))
    result = given.alpha.copy()
    values, curve = device.place(result)[0], device.place(table[None])[0]
    cuda.apply_curve(device, values, (1, *result.shape), curve, entries)
    device.fetch(result, values)
    expected = np.interp(given.alpha, np.linspace(0, 1, entries), table)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@relaxed
@given(
    case=cases(40, 120),
    kind=st.sampled_from(["planes", "small", "none"]),
    shifted=st.booleans(),
    keep_solid=st.booleans(),
    with_alpha=st.booleans(),
)
def test_composite(
    device: ArrayDevice, case: Case, kind: str, shifted: bool, keep_solid: bool, with_alpha: bool
) -> None:
    random = case.random()
    planes, background = case.planes(random), case.planes(random)
    slope, offset = case.coefficients(random)
    shift = random.uniform(-40, 40, (3, 7, 9)).astype(np.float32) if shifted else None
    picture = random.uniform(-9, 300, (3, 6, 5)).astype(np.float32)
    behind = {"planes": background, "small": picture, "none": None}[kind]
    out = [np.zeros(plane.shape, plane.dtype) for plane in planes]
    alpha = np.zeros_like(planes[0])
    job = cuda.CompositeJob(
        layout_of(case, planes), planes_of(device, planes),
        planes_of(device, background) if kind == "planes" else cuda.Planes(),
        grid_of(device, picture if kind == "small" else None),
        planes_of(device, out), *(device.place(alpha) if with_alpha else (None, 0)),
        cuda.Levels(*case.levels), *(grid_of(device, grid) for grid in (slope, offset, shift)),
        keep_solid,
    )  # fmt: skip
    cuda.composite(device, job)
    for plane, address in zip(out, job.out.data, strict=False):
        device.fetch(plane, address)
    if with_alpha:
        device.fetch(alpha, job.alpha)
    expected, expected_alpha = reference.composite(
        planes, slope, offset, behind, case.levels, shift, keep_solid
    )
    for plane, wanted in zip(reference.split(out), expected, strict=True):
        np.testing.assert_allclose(plane.astype(int), wanted, atol=1)
    if with_alpha:
        np.testing.assert_allclose(alpha.astype(int), expected_alpha, atol=1)
