"""Pictures with known alpha, still and moving."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fusematte.training.compose import cover, moving, still


def person(height: int = 90, width: int = 120) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    alpha = np.zeros((height, width), np.uint8)
    cv2.circle(alpha, (60, 45), 20, 255, -1, cv2.LINE_AA)
    return np.full((height, width, 3), (200, 40, 90), np.uint8), alpha


@pytest.mark.parametrize("shape", [(30, 200), (200, 30), (90, 120), (400, 500)])
def test_a_room_fills_the_picture(shape: tuple[int, int]) -> None:
    room = np.full((*shape, 3), 77, np.uint8)
    assert (cover(room, 90, 120) == 77).all()
    assert cover(room, 90, 120).shape == (90, 120, 3)


def test_stills_follow_equation_1() -> None:
    foreground, alpha = person()
    image = still(foreground, alpha, np.full((50, 50, 3), 10, np.uint8))
    weight = alpha[..., None] / 255
    np.testing.assert_allclose(image, foreground * weight + 10 * (1 - weight), atol=0.51)


def test_scenes_move_as_their_flow_says() -> None:
    foreground, alpha = person()
    room = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    scene = moving(foreground, alpha, room, frames=6)
    assert (len(scene.images), len(scene.alphas), len(scene.flows)) == (6, 6, 5)
    # Before a still or a moving room: the frames differ, and so do the rooms.
    assert all((a != b).any() for a, b in zip(scene.images, scene.images[1:], strict=False))
    y, x = np.mgrid[:90, :120].astype(np.float32)
    for now, then, flow in zip(scene.alphas, scene.alphas[1:], scene.flows, strict=False):
        assert np.abs(flow).max() > 0.3
        moved = cv2.remap(then, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
        still_there = np.abs(moved.astype(int) - now).mean()
        assert still_there < 0.5 * np.abs(then.astype(int) - now).mean()
        assert still_there < 1
