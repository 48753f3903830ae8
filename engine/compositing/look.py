"""Light wrap and despill: a person takes on the new background's light, and loses the old one's.

Both are corrections of the person's estimated colour at low resolution; the kernels carry them to
full resolution with the rest of that colour's shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fusematte.engine.errors import UsageError
from fusematte.engine.frame import Map
from fusematte.engine.matting.mask import WHOLE, Mask

WRAP_REACH = 0.025
"""How far the background's light reaches over the person: a sigma, in shorter sides."""
TINT = 0.05
"""The old background's saturation from which on its hue is trusted; a gray one has none to take
away.  Chroma spans -0.5..0.5."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """light_wrap: how much of the new background's light shines over the person's edges, 0 to 1.
    despill: how much of the old background's hue is taken off the person, 0 to 1.
    mask: edits of the alpha.

    Raises:
        UsageError: one of them is no number in 0..1.
    """

    light_wrap: float = 0.0
    despill: float = 0.0
    mask: Mask = WHOLE

    def __post_init__(self) -> None:
        for name, value in (("light wrap", self.light_wrap), ("despill", self.despill)):
            if not 0 <= value <= 1:
                raise UsageError(f"{name} must be a number from 0 to 1, not {value}")

    @property
    def keeps_colors(self) -> bool:
        """Whether the solid parts of the people come out in the frame's own colours."""
        return not (self.light_wrap or self.despill)


PLAIN = Look()
"""None of them."""


def despilled(foreground: Map, old: Map, alpha: Map, strength: float) -> Map:
    """The person's colours without the old background's hue.

    What a colour's chroma has in the direction of the old background's mean chroma, beyond what it
    has across it, is taken off: hues more than 45 degrees away stay as they are.

    Shape:
        foreground, old: [3, h, w], Y'CbCr (0..1, -0.5..0.5); alpha: [h, w]; output: [3, h, w].
    """
    weight = 1 - alpha
    tint = (old[1:] * weight).sum((1, 2)) / max(float(weight.sum()), 1e-6)
    saturation = float(np.hypot(*tint))
    if saturation == 0:
        return foreground
    along = np.asarray(tint / saturation, np.float32)
    _, blue, red = foreground
    excess = blue * along[0] + red * along[1] - np.abs(blue * along[1] - red * along[0])
    taken = strength * min(1.0, saturation / TINT) * np.maximum(excess, 0)
    result = foreground.copy()
    result[1:] -= taken * along[:, None, None]
    return result


def wrapped(foreground: Map, light: Map, alpha: Map, strength: float) -> Map:
    """The person's colours with the background's light over their edges.

    The light is the blurred background; it falls off with the blurred background's share.

    Shape:
        foreground, light: [3, h, w], Y'CbCr; alpha: [h, w]; output: [3, h, w].
    """
    sigma = max(1.0, WRAP_REACH * min(alpha.shape))
    weight = strength * cv2.GaussianBlur(1 - alpha, (0, 0), sigma)
    soft = np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in light])
    return np.asarray(foreground + weight * (soft - foreground), np.float32)
