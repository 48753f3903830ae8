"""Two looks at a still picture."""

from __future__ import annotations

import numpy as np
from tests.engine.matting.balls import HEIGHT, WIDTH, ball
from tests.peers import HookedMatter, Infer

from fusematte.engine.backends import Maps
from fusematte.engine.frame import Map
from fusematte.engine.matting.matter import AREAS
from fusematte.engine.matting.stills import NEAR, matte_still


def test_the_second_look_refines_people_and_adds_none(matter: HookedMatter) -> None:
    """The first look finds a person in the left quarter; the second is less sure of it, and finds
    somebody beside it and somebody at the right."""
    sizes: list[tuple[int, int]] = []

    def network(_: Infer, image: Map, _previous: Map) -> Maps:
        height, width = image.shape[2:]
        sizes.append((height, width))
        alpha = np.zeros((height, width), np.float32)
        if (height, width) == (HEIGHT, WIDTH):
            alpha[:, : width // 4] = 1
        else:
            alpha[:, : width // 4 + 4] = 0.8
            alpha[:, -width // 4 :] = 1
        return Maps(alpha, alpha, 1 - alpha, np.full_like(alpha, 0.5))

    matter.hook = network
    alpha = matte_still(ball(0, 0)[0], matter, ()).alpha
    height, width = alpha.shape
    assert [*dict.fromkeys(sizes)] == [(HEIGHT, WIDTH), (height, width)]
    assert 0.8 * AREAS["high"] < height * width / (HEIGHT * WIDTH) < 1.2 * AREAS["high"]
    edge = width // 4
    np.testing.assert_allclose(alpha[:, : edge - 1], 0.9, atol=1e-6)
    np.testing.assert_allclose(alpha[:, edge + 1 : edge + 4], 0.4, atol=1e-6)
    assert not alpha[:, edge + round(NEAR * height) + 1 :].any()
    assert matter.scale == 1.0
