"""A first matte is looked at from afar: what is a person from close up alone is a thing.

The network tells people from things best where it sees them small.  A first frame has no matte to
go by, and later ones hold on to what it takes along by mistake.  So of a first matte only those
parts count that the network finds from afar as well.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from fusematte.engine.frame import Map
from fusematte.engine.pixels.color import enlarge

SHARE = 0.56
"""The picture's sides from afar, as a share of its own."""
TRACE = 0.1
"""Alpha above which pixels belong to a part."""
SOLID = 0.5
"""Alpha above which a part must be found from afar."""
FOUND = 0.3
"""Mean alpha from afar, over what is solid of a part, from which on it is a person."""


def confirmed(alpha: Map, image: Map, look: Callable[[Map], Map]) -> Map:
    """A first alpha without the parts that are not found from afar.

    Args:
        look: the network's alpha for a picture without a previous alpha.

    Shape:
        alpha, output, output of ``look``: [h, w], 0..1; image, input of ``look``: [1, 3, h, w],
        RGB, 0..1.
    """
    count, labels = cv2.connectedComponents((alpha > TRACE).astype(np.uint8))
    if count == 1:
        return alpha
    solid = alpha > SOLID
    sizes = np.bincount(labels[solid], minlength=count)
    sums = np.bincount(labels[solid], _from_afar(image, look)[solid], minlength=count)
    people = sums >= FOUND * np.maximum(sizes, 1)
    return np.where(people[labels], alpha, np.float32(0))


def _from_afar(image: Map, look: Callable[[Map], Map]) -> Map:
    """The alpha of the picture made smaller, at the picture's size: [h, w].

    It is looked at on a canvas of the same size, for which the network is compiled already: at the
    bottom, as bodies that the picture cuts off must not end in mid-air; its border fills the rest.
    """
    height, width = image.shape[2:]
    small_height, small_width = round(SHARE * height), round(SHARE * width)
    top, left = height - small_height, (width - small_width) // 2
    right = width - small_width - left
    canvas = np.empty_like(image)
    for plane, target in zip(image[0], canvas[0], strict=True):
        small = cv2.resize(plane, (small_width, small_height), interpolation=cv2.INTER_AREA)
        cv2.copyMakeBorder(small, top, 0, left, right, cv2.BORDER_REPLICATE, dst=target)
    alpha = look(canvas)[top:, left : left + small_width]
    return enlarge(alpha, height, width)
