"""The network's fourth channel as a guide: what was foreground before, and what is wanted of it.

Without a choice it is the alpha of the frame before, 0..1, and 0 where nothing is known.  With one
it is signed: 1 is wanted, -1 is not.  The next frame's guide then comes from this frame's alpha
alone, ``carried``: whatever was not kept is unwanted, and so is whoever enters later.  Nothing else
has to be remembered or tracked, and the network runs once per frame as it does without.

Training draws its guides from the same numbers (``training.guides``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Map

if TYPE_CHECKING:
    from torch import Tensor

KEEP, DROP = 1.0, -1.0
"""Of a click's disc."""
UNDECIDED = -0.5
"""Everywhere else, where something is kept and nothing is known of the frame before: there is a
choice, and this may or may not be part of it."""
BOX = 0.5
"""Inside a box around what is to be kept: most of it is."""
DISC = 0.03
"""Radius of a click's disc, as a share of the frame's height."""

Plane = TypeVar("Plane", NDArray[np.float32], "Tensor")


def carried(alpha: Plane) -> Plane:
    """The guide that follows from the alpha of the frame before, where there is a choice.

    alpha: an array or a tensor, 0..1; the guide is -1..1.
    """
    return 2 * alpha - 1


def draw_disc(guide: Map, x: float, y: float, value: float) -> None:
    """A click into a guide [h, w]; x and y are shares of its sides."""
    cv2.circle(guide, _pixel(guide, x, y), max(1, round(DISC * guide.shape[0])), value, -1)


def draw_box(guide: Map, x: float, y: float, width: float, height: float) -> None:
    """A box around what is to be kept, into a guide [h, w]; in shares of its sides."""
    cv2.rectangle(guide, _pixel(guide, x, y), _pixel(guide, x + width, y + height), BOX, -1)


def _pixel(guide: Map, x: float, y: float) -> tuple[int, int]:
    height, width = guide.shape
    return min(int(x * width), width - 1), min(int(y * height), height - 1)
