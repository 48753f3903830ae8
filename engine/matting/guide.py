"""The network's fourth channel as a guide: what was foreground before, and what is wanted of it.

Without a choice it is the alpha of the frame before, 0..1, and 0 where nothing is known.  With one
it is signed: 1 is wanted, -1 is not.  The next frame's guide then comes from this frame's alpha
alone, ``carried``: whatever was not kept is unwanted, and so is whoever enters later.  Nothing else
has to be remembered or tracked, and the network runs once per frame as it does without.

Training draws its guides from the same numbers (``training.guides``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

KEEP, DROP = 1.0, -1.0
"""Of a click's disc."""
UNDECIDED = -0.5
"""Everywhere else, where something is kept and nothing is known of the frame before: there is a
choice, and this may or may not be part of it."""
BOX = 0.5
"""Inside a box around what is to be kept: most of it is."""
DISC = 0.03
"""Radius of a click's disc, as a share of the frame's height."""

if TYPE_CHECKING:
    from torch import Tensor

Plane = TypeVar("Plane", NDArray[np.float32], "Tensor")


def carried(alpha: Plane) -> Plane:
    """The guide that follows from the alpha of the frame before, where there is a choice.

    alpha: an array or a tensor, 0..1; the guide is -1..1.
    """
    return 2 * alpha - 1
