"""Flicker: on made-up mattes, and on a real video."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.engine.matting.mattes import HEIGHT, WIDTH, cropped, matte, run

from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.smoothing import Lookahead, Smoother
from fusematte.engine.media.reader import Reader


@pytest.mark.parametrize("make", [Smoother, lambda: Lookahead(2)])
def test_doubtful_flicker_in_a_still_picture_is_held(make: type[Smoother]) -> None:
    mattes = [matte(0.4 + 0.2 * (index % 2), doubt=0.5) for index in range(12)]
    alphas = run(make(), mattes)[3:-3]
    assert np.ptp(alphas) < 0.1  # of 0.2
    assert abs(np.mean(alphas) - 0.5) < 0.03


@pytest.mark.parametrize("make", [Smoother, lambda: Lookahead(2)])
def test_what_the_decoders_agree_on_is_left_alone(make: type[Smoother]) -> None:
    mattes = [matte(0.4 + 0.2 * (index % 2), doubt=0) for index in range(6)]
    for got, given in zip(run(make(), mattes), mattes, strict=False):
        np.testing.assert_allclose(got, given.alpha, atol=1e-6)


@pytest.mark.parametrize("make", [Smoother, lambda: Lookahead(2)])
def test_what_moves_does_not_lag(make: type[Smoother]) -> None:
    # A person enters: the picture changes, alpha with it, and the decoders are in doubt.
    dark, bright = (np.full((HEIGHT, WIDTH), value, np.float32) for value in (0.3, 0.6))
    mattes = [matte(0.0, doubt=0.5, luma=dark)] * 4 + [matte(1.0, doubt=0.5, luma=bright)] * 4
    alphas = run(make(), mattes)
    assert alphas[3].max() < 1e-3
    assert alphas[4].min() > 1 - 1e-3


def test_lookahead_delays_and_stays_within_the_scene() -> None:
    ahead = Lookahead(2)
    before, after = matte(0.2, doubt=0.5), matte(0.8, doubt=0.5)
    given = [(before, False), (before, True), (after, False), (after, True), (after, True)]
    done = [ahead(item, follows=follows) for item, follows in given]
    assert done[:2] == [None, None]
    for got, expected in zip(done[2:], (0.2, 0.2, 0.8), strict=True):
        assert got is not None
        np.testing.assert_allclose(got.alpha, expected, atol=1e-6)


def test_smoothing_survives_a_change_of_the_networks_size() -> None:
    smoother = Smoother()
    smoother(matte(0.4, doubt=0.5), follows=False)
    half = matte(0.6, doubt=0.5)
    small = replace(
        half,
        **{k: getattr(half, k)[..., ::2, ::2] for k in ("alpha", "foreground", "background")},
        color=half.color[:, ::2, ::2],
    )
    done = smoother(small, follows=True)
    assert done.alpha.shape == (HEIGHT // 2, WIDTH // 2)
    assert np.all((done.alpha > 0.41) & (done.alpha < 0.55))


@pytest.mark.slow
def test_somebody_real_enters_and_leaves(shared_clips: Path) -> None:
    """A camera that pans to a person and on: the smoothed alpha is that of a network without a
    memory, and nothing of the person stays behind."""
    with Reader(shared_clips / "juggle.mp4") as reader:
        frames = list(itertools.islice(reader, 24))
    width = frames[0].width // 5 * 2
    lefts = np.linspace(0, frames[0].width - width, len(frames)).astype(int) // 2 * 2
    panned = [cropped(frame, left, width) for frame, left in zip(frames, lefts, strict=True)]
    with Matter() as matter, Matter() as fresh:
        # At the smallest scale the network without a memory loses the person in one frame.
        matter.scale = fresh.scale = 0.5
        smoother, areas, alone = Smoother(), [], []
        for frame in panned:
            found = matter(frame)
            areas.append(float(smoother(found, follows=matter.follows).alpha.mean()))
            fresh.reset()
            alone.append(float(fresh(frame).alpha.mean()))
    assert min(alone[0], alone[-1]) < 0.02 and max(alone) > 0.1
    assert np.abs(np.subtract(areas, alone)).max() < 0.03, (areas, alone)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_lookahead_gives_every_matte_in_the_end(count: int) -> None:
    smoother = Lookahead(3)
    mattes = [replace(matte(0.5, doubt=0.1), pts=index) for index in range(count)]
    given = [smoother(one, follows=index > 0) for index, one in enumerate(mattes)]
    early = [one.pts for one in given if one is not None]
    assert early == list(range(max(0, count - 3)))
    assert [*early, *(one.pts for one in smoother.drain())] == list(range(count))
