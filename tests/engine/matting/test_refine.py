"""The guided-filter refinement, from the network's resolution to the frame's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import matte_of

from fusematte.engine.frame import PIXEL_FORMATS, Color, Frame
from fusematte.engine.matting.refine import EPSILON, coefficients, refine


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
    # No variance: slope 0, and the offset is the network's alpha itself, not a blur of it.
    frame = gray_frame(np.full((32, 32), 0.5))
    alpha = np.random.default_rng(0).random((32, 32), np.float32)
    slope, offset = coefficients(matte_of(frame, alpha))
    np.testing.assert_allclose(slope, 0, atol=1e-6 / EPSILON)
    np.testing.assert_allclose(offset, alpha, atol=1e-6 / EPSILON)


def test_at_its_own_resolution_alpha_passes_unchanged() -> None:
    rng = np.random.default_rng(0)
    frame = gray_frame(rng.random((48, 64)))
    alpha = rng.random((48, 64), np.float32)
    got = refine(frame, matte_of(frame, alpha)) / 255
    assert np.abs(got - alpha).max() < 0.51 / 255 + 1e-5
