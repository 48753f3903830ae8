"""The guided-filter refinement, from the network's resolution to the frame's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.helpers import matte_of

from fusematte.engine.frame import PIXEL_FORMATS, Color, Frame
from fusematte.engine.matting.refine import EPSILON, at_edges, coefficients, refine


def gray_frame(luma: NDArray[np.float64], name: str = "yuv420p") -> Frame:
    """A full-range frame of this luma, 0..1."""
    layout = PIXEL_FORMATS[name]
    peak = (1 << layout.bits) - 1
    neutral = np.full(layout.chroma_shape(*luma.shape), (peak + 1) // 2, layout.dtype)
    y = np.round(luma * peak).astype(layout.dtype)
    return Frame(planes=(y, neutral, neutral), format=layout, color=Color(full_range=True))


def disc(size: int, radius: float) -> NDArray[np.float64]:
    """1 inside of a circle around the middle, with a smooth rim, size x size."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.clip(radius * size - np.hypot(x, y), 0, 1)


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_codes_span_the_frames_own_bits(name: str) -> None:
    frame = gray_frame(disc(65, 0.3), name)
    alpha = refine(frame, matte_of(frame, disc(32, 0.3).astype(np.float32)))
    peak = (1 << frame.format.bits) - 1
    assert (alpha.shape, alpha.dtype) == ((65, 65), np.dtype(frame.format.dtype))
    assert alpha[32, 32] == peak
    assert alpha[0, 0] == 0


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_alpha_stays_flat_over_any_picture(value: float) -> None:
    frame = gray_frame(np.random.default_rng(0).random((90, 70)))
    got = refine(frame, matte_of(frame, np.full((32, 32), value, np.float32)))
    np.testing.assert_allclose(got / 255, value, atol=4e-3)


def test_the_edge_comes_from_the_picture() -> None:
    truth = disc(512, 0.3)
    frame = gray_frame(0.2 + 0.6 * truth)
    low = matte_of(frame, matte_of(gray_frame(truth), np.zeros((64, 64), np.float32)).color[0])
    refined = np.abs(refine(frame, low) / 255 - truth).mean()
    # What plain enlarging leaves: the nearest low-resolution value, blocks of 8 x 8.
    blocks = np.abs(np.kron(low.alpha, np.ones((8, 8))) - truth).mean()
    assert refined < blocks / 3


def test_a_flat_picture_adds_nothing() -> None:
    # No variance: slope 0, and the offset is the alpha of the first step, not a blur of it.
    frame = gray_frame(np.full((32, 32), 0.5))
    matte = matte_of(frame, np.random.default_rng(0).random((32, 32), np.float32))
    slope, offset = coefficients(matte)
    np.testing.assert_allclose(slope, 0, atol=1e-6 / EPSILON)
    np.testing.assert_allclose(offset, at_edges(matte), atol=1e-6 / EPSILON)


def test_at_its_own_resolution_the_luma_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    frame = gray_frame(rng.random((48, 64)))
    matte = matte_of(frame, rng.random((48, 64), np.float32))
    got = refine(frame, matte) / 255
    assert np.abs(got - at_edges(matte)).max() < 0.51 / 255 + 1e-5


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_soft_edges_are_drawn_to_those_of_the_picture(channel: int) -> None:
    """A network's edge, eight pixels wide and off by one, beside that of a shirt before a wall."""
    truth = np.zeros((48, 64), np.float32)
    truth[:, 33:] = 1
    matte = matte_of(gray_frame(np.zeros((48, 64))), truth)
    matte.color[channel] = 0.1 + 0.1 * truth
    soft = np.broadcast_to(np.clip((np.arange(64, dtype=np.float32) - 28) / 8, 0, 1), (48, 64))
    drawn = at_edges(replace(matte, alpha=np.ascontiguousarray(soft)))
    assert np.abs(drawn - truth).mean() < 0.7 * np.abs(soft - truth).mean()


@given(seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_what_the_network_is_sure_of_stays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    alpha = np.clip(rng.normal(0.5, 1, (24, 34)), 0, 1).astype(np.float32)
    drawn = at_edges(matte_of(gray_frame(rng.random((24, 34))), alpha))
    solid = (alpha == 0) | (alpha == 1)
    np.testing.assert_array_equal(drawn[solid], alpha[solid])
    assert drawn.min() >= 0 and drawn.max() <= 1
