"""Three looks at a still picture."""

from __future__ import annotations

import numpy as np
from tests.engine.matting.balls import HEIGHT, WIDTH, ball
from tests.peers import HookedMatter, Infer

from fusematte.engine.backends import Maps
from fusematte.engine.frame import Map
from fusematte.engine.matting.matter import AREAS
from fusematte.engine.matting.stills import FAR, NEAR, matte_still


def test_a_closer_look_refines_people_and_adds_none(matter: HookedMatter) -> None:
    """All looks find a person in the left quarter.  The first is not sure of somebody in the
    middle, whom the look from afar does not find.  The closest is less sure of the person, and
    finds somebody beside it and at the right."""
    sizes: list[tuple[int, int]] = []

    def network(_: Infer, image: Map, _previous: Map) -> Maps:
        height, width = image.shape[2:]
        sizes.append((height, width))
        alpha = np.zeros((height, width), np.float32)
        if height <= HEIGHT:
            alpha[:, : width // 4] = 1
        else:
            alpha[:, : width // 4 + 4] = 0.8
            alpha[:, -width // 4 :] = 1
        if height >= HEIGHT:
            alpha[:, 2 * width // 5 : width // 2] = 0.98
        return Maps(alpha, alpha, 1 - alpha, np.full_like(alpha, 0.5))

    matter.hook = network
    alpha = matte_still(ball(0, 0)[0], matter, ()).alpha
    height, width = alpha.shape
    areas = [h * w / (HEIGHT * WIDTH) for h, w in sorted({*sizes})]
    assert sizes[-1] == (height, width)
    np.testing.assert_allclose(areas, [FAR, 1, AREAS["high"]], rtol=0.2)
    edge = width // 4
    np.testing.assert_allclose(alpha[:, : edge - 2], 0.9, atol=1e-6)
    np.testing.assert_allclose(alpha[:, edge + 2 : edge + 4], 0.4, atol=1e-6)
    assert not alpha[:, edge + round(NEAR * height) + 1 :].any()
    assert matter.scale == 1.0


def test_what_is_sure_needs_no_look_from_afar(matter: HookedMatter) -> None:
    areas: set[int] = set()

    def network(_: Infer, image: Map, _previous: Map) -> Maps:
        height, width = image.shape[2:]
        areas.add(height * width)
        alpha = np.zeros((height, width), np.float32)
        alpha[:, : width // 4] = 0.99
        alpha[:3, -3:] = 0.6  # too small to matter
        return Maps(alpha, alpha, 1 - alpha, np.full_like(alpha, 0.5))

    matter.hook = network
    matte_still(ball(0, 0)[0], matter, ())
    assert min(areas) == HEIGHT * WIDTH
    assert len(areas) == 2
