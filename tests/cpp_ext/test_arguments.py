"""Bad arguments raise an exception that names them; nothing crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fusematte import cpp_ext

LEVELS = (16.0, 219.0, 128.0, 224.0)
BT709 = (0.2126, 0.0722)


def yuv420p(height: int = 6, width: int = 8, dtype: type = np.uint8) -> list[np.ndarray[Any, Any]]:
    half = (height + 1) // 2, (width + 1) // 2
    return [np.zeros(shape, dtype) for shape in ((height, width), half, half)]


def floats(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full(shape, 0.5, np.float32)


def spoiled(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    array = floats(5, 4)
    array[2, 3] = value
    return array


def resize(**changed: object) -> object:
    arguments = {
        "planes": yuv420p(), "height": 3, "width": 4, "matrix": BT709, "levels": LEVELS,
    } | changed  # fmt: skip
    return cpp_ext.resize_to_tensor(**arguments)


def guided(**changed: object) -> object:
    arguments = {"guide": floats(5, 4), "alpha": floats(5, 4), "radius": 2, "epsilon": 1e-4}
    return cpp_ext.guided_coefficients(**(arguments | changed))


def guided_alpha(**changed: object) -> object:
    arguments = {
        "guide": floats(3, 6, 4), "alpha": floats(6, 4), "radius": 2, "epsilon": 1e-4,
        "certain": 0.1,
    }  # fmt: skip
    return cpp_ext.guided_alpha(**(arguments | changed))


def foreground(**changed: object) -> object:
    arguments = {"color": floats(3, 5, 4), "alpha": floats(5, 4), "radii": (3, 1)}
    return cpp_ext.estimate_foreground(**(arguments | changed))


def move(**changed: object) -> object:
    return cpp_ext.move(**({"planes": floats(5, 4, 4), "flow": floats(3, 2, 2)} | changed))


def blend_moved(**changed: object) -> object:
    arguments = {
        "luma": floats(5, 4), "first": floats(4, 5, 4), "second": floats(4, 5, 4) / 2,
        "radius": 2, "noise": 0.01, "unfit": 0.03,
    }  # fmt: skip
    return cpp_ext.blend_moved(**(arguments | changed))


def composite(**changed: object) -> object:
    arguments = {
        "planes": yuv420p(), "slope": floats(5, 4), "offset": floats(5, 4),
        "background": (16, 128, 128), "levels": LEVELS,
    } | changed  # fmt: skip
    return cpp_ext.composite(**arguments)


@pytest.mark.parametrize(
    "call", [resize, guided, guided_alpha, foreground, composite, move, blend_moved]
)
def test_the_arguments_the_others_spoil_are_good(call: Callable[..., object]) -> None:
    call()
    call(threads=3)


WRONG_PLANES = {
    "too few": yuv420p()[:1],
    "one array": yuv420p()[0],
    "float samples": [plane.astype(np.float32) for plane in yuv420p()],
    "signed samples": [plane.astype(np.int16) for plane in yuv420p()],
    "mixed depth": [*yuv420p()[:2], yuv420p(dtype=np.uint16)[2]],
    "chroma of another size": [yuv420p()[0], *yuv420p(10, 8)[1:]],
    "U and V differ": [*yuv420p()[:2], yuv420p(6, 12)[2]],
    "columns apart": [yuv420p(6, 16)[0][:, ::2], *yuv420p()[1:]],
    "columns mirrored": [yuv420p()[0][:, ::-1], *yuv420p()[1:]],
    "turned": [plane.T for plane in yuv420p(8, 6)],
    "no rows": yuv420p(0, 8),
    "interleaved but flat": [yuv420p()[0], np.zeros((3, 8), np.uint8)],
    "no arrays": [[1], [2], [3]],
}


@pytest.mark.parametrize("planes", WRONG_PLANES.values(), ids=WRONG_PLANES)
@pytest.mark.parametrize("call", [resize, composite])
def test_planes(call: Callable[..., object], planes: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^planes: "):
        call(planes=planes)


@pytest.mark.parametrize(
    ("call", "name", "value"),
    [
        (resize, "height", 0),
        (resize, "width", -3),
        (resize, "width", 2.0),
        (resize, "height", 1 << 20),
        (resize, "matrix", (0.5, 0.5)),
        (resize, "matrix", (0.2,)),
        (resize, "levels", (16, 0, 128, 224)),
        (resize, "levels", (16, 219, float("nan"), 224)),
        (resize, "rgb", floats(3, 4, 4)),
        (resize, "rgb", np.zeros((3, 3, 4))),
        (resize, "ycbcr", floats(3, 4, 3).transpose(0, 2, 1)),
        (resize, "threads", 0),
        (resize, "threads", 1000),
        (resize, "threads", True),
        (guided, "radius", 0),
        (guided, "radius", 5),
        (guided, "radius", 1.0),
        (guided, "epsilon", 0.0),
        (guided, "epsilon", float("nan")),
        (guided, "alpha", floats(5, 4).astype(np.float64)),
        (guided, "alpha", floats(20)),
        (guided, "guide", floats(4, 5)),
        (guided, "guide", floats(2, 5, 4)),
        (guided_alpha, "guide", floats(6, 4)),
        (guided_alpha, "guide", np.full((3, 6, 4), np.nan, np.float32)),
        (guided_alpha, "guide", floats(2, 6, 4)),
        (guided_alpha, "alpha", floats(5, 4)),
        (guided_alpha, "radius", 3),
        (guided_alpha, "epsilon", 0.0),
        (guided_alpha, "certain", 0.0),
        (guided_alpha, "certain", 1.5),
        (guided_alpha, "certain", float("nan")),
        (guided, "guide", [[0.5]]),
        (move, "planes", floats(5, 4, 3)),
        (move, "planes", floats(5, 4).astype(np.float64)),
        (move, "flow", floats(3, 2)),
        (move, "flow", floats(2, 3, 1)),
        (move, "flow", np.full((3, 2, 2), np.inf, np.float32)),
        (move, "flow", floats(0, 2, 2)),
        (move, "threads", 0),
        (blend_moved, "luma", floats(4, 5, 4)),
        (blend_moved, "first", floats(5, 4, 4)),
        (blend_moved, "second", floats(4, 4, 5)),
        (blend_moved, "radius", 5),
        (blend_moved, "noise", 0.0),
        (blend_moved, "unfit", float("nan")),
        (blend_moved, "threads", None),
        (foreground, "radii", ()),
        (foreground, "radii", (5, 1)),
        (foreground, "radii", (0,)),
        (foreground, "color", floats(3, 4, 4)),
        (foreground, "color", floats(5, 4)),
        (foreground, "alpha", spoiled(1.5)),
        (foreground, "alpha", spoiled(float("nan"))),
        (foreground, "bounds", ((0, 1), (0, 1))),
        (foreground, "bounds", ((0, 1), (1, 0), (0, 1))),
        (composite, "slope", spoiled(float("nan"))),
        (composite, "offset", floats(4, 4)),
        (composite, "shift", floats(5, 4)),
        (composite, "shift", np.full((3, 5, 4), np.nan, np.float32)),
        (composite, "background", (16, 128)),
        (composite, "background", (16, 128, 256)),
        (composite, "background", (16, 128, 0.5)),
        (composite, "background", yuv420p(8, 8)),
        (composite, "background", yuv420p(dtype=np.uint16)),
        (composite, "background", floats(5, 4)),
        (composite, "background", np.zeros((3, 5, 4))),
        (composite, "out", yuv420p(8, 8)),
        (composite, "out", yuv420p()[:2]),
        (composite, "out", [np.broadcast_to(np.uint8(0), plane.shape) for plane in yuv420p()]),
        (composite, "alpha", np.zeros((6, 9), np.uint8)),
        (composite, "alpha", np.zeros((6, 8), np.uint16)),
        (resize, "planes", None),
        (resize, "height", None),
        (resize, "height", True),
        (resize, "rgb", [1]),
        (resize, "ycbcr", np.zeros((3, 3, 4))),
        (resize, "matrix", None),
        (resize, "matrix", ("a", "b")),
        (resize, "levels", None),
        (resize, "levels", (16, 219, 128)),
        (resize, "threads", 1.5),
        (guided, "guide", floats(5, 4).astype(np.float16)),
        (guided, "alpha", None),
        (guided, "alpha", floats(0, 4)),
        (guided, "radius", None),
        (guided, "epsilon", None),
        (guided, "epsilon", float("inf")),
        (guided, "threads", 0),
        (foreground, "radii", 3),
        (foreground, "radii", (1.5,)),
        (foreground, "radii", "12"),
        (foreground, "color", np.full((3, 5, 4), np.nan, np.float32)),
        (foreground, "color", np.zeros((3, 5, 4))),
        (foreground, "alpha", spoiled(-0.1)),
        (foreground, "bounds", None),
        (foreground, "bounds", (1, 2, 3)),
        (foreground, "bounds", ((0, 1), (0, float("nan")), (0, 1))),
        (foreground, "threads", 99),
        (composite, "planes", None),
        (composite, "slope", None),
        (composite, "slope", floats(20)),
        (composite, "slope", floats(5, 4).astype(np.float64)),
        (composite, "offset", spoiled(float("inf"))),
        (composite, "levels", None),
        (composite, "levels", (16, 219, 128, -1)),
        (composite, "keep_solid", 1),
        (composite, "background", 5),
        (composite, "background", ()),
        (composite, "background", [plane[:, ::2] for plane in yuv420p(6, 16)]),
        (composite, "background", [*yuv420p()[:2], None]),
        (composite, "background", np.full((3, 5, 4), np.nan, np.float32)),
        (composite, "shift", 5),
        (composite, "shift", np.zeros((3, 5, 4))),
        (composite, "out", 5),
        (composite, "out", yuv420p(dtype=np.uint16)),
        (composite, "out", [plane[:, ::2] for plane in yuv420p(6, 16)]),
        (composite, "alpha", 5),
        (composite, "alpha", np.zeros((6, 16), np.uint8)[:, ::2]),
        (composite, "alpha", np.broadcast_to(np.uint8(0), (6, 8))),
        (composite, "threads", 0),
    ],
)
def test_the_exception_names_the_argument(
    call: Callable[..., object], name: str, value: object
) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: "):
        call(**{name: value})


def test_output_may_not_overlap_the_input() -> None:
    planes = yuv420p()
    with pytest.raises(ValueError, match=r"^out: overlaps"):
        composite(planes=planes, out=planes)
    with pytest.raises(ValueError, match=r"^alpha: overlaps"):
        composite(planes=planes, alpha=planes[0])
    rgb = floats(3, 3, 4)
    with pytest.raises(ValueError, match=r"^ycbcr: overlaps"):
        resize(rgb=rgb, ycbcr=rgb)


def test_unknown_instruction_set() -> None:
    with pytest.raises(ValueError, match=r"^name: "):
        cpp_ext.use_instruction_set("mmx")


@pytest.mark.parametrize(
    ("call", "name", "shape"),
    [
        (guided, "alpha", (5, 4)),
        (guided, "guide", (5, 4)),
        (guided_alpha, "alpha", (6, 4)),
        (move, "planes", (5, 4)),
        (blend_moved, "luma", (5, 4)),
        (blend_moved, "second", (4, 5, 4)),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(
    call: Callable[..., object], name: str, shape: tuple[int, ...], value: float
) -> None:
    """So ``composite`` refuses it in the end."""
    result = call(**{name: np.full(shape, value, np.float32)})
    if isinstance(result, cpp_ext.Guided):
        result = result.offset
    first = result if isinstance(result, np.ndarray) else np.asarray(result)[0]
    assert not np.isfinite(first).any()
