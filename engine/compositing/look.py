"""Light wrap (light of the new background on the person's edges) and despill (removal of the old
background's colour cast).

Both correct the estimated foreground colour at low resolution; the kernels upsample them together
with the rest of the colour shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fusematte.engine.errors import check_range
from fusematte.engine.frame import Map
from fusematte.engine.matting.mask import WHOLE, Mask

WRAP_REACH = 0.025
"""How far the light reaches over the person: sigma as a share of the picture's shorter side."""
TINT = 0.05
"""Saturation of the old background at which despill works fully; a gray one has no hue to remove.
Chroma spans -0.5..0.5."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a composite looks.

    light_wrap: strength of the new background's light on the person's edges, 0 to 1.
    despill: share of the old background's hue that is removed from the person, 0 to 1.
    mask: edits of the alpha.

    Raises:
        UsageError: light_wrap or despill is not within 0..1.
    """

    light_wrap: float = 0.0
    despill: float = 0.0
    mask: Mask = WHOLE

    def __post_init__(self) -> None:
        check_range("light_wrap", self.light_wrap, 0, 1)
        check_range("despill", self.despill, 0, 1)

    @property
    def keeps_colors(self) -> bool:
        """Whether opaque areas keep the frame's own colours."""
        return not (self.light_wrap or self.despill)


PLAIN = Look()
"""No light wrap, no despill, no edits."""


def despilled(foreground: Map, old: Map, alpha: Map, strength: float) -> Map:
    """The foreground colours without the old background's hue.

    With the old background's mean chroma as the direction, the excess of a colour's component along
    it over its component across it is removed: hues more than 45 degrees away do not change.

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


def wrap_sigma(shape: tuple[int, ...]) -> float:
    """Sigma in pixels of the blur of the light, for colours of a shape [h, w]."""
    return max(1.0, WRAP_REACH * min(shape))


def wrapped(foreground: Map, light: Map, alpha: Map, strength: float) -> Map:
    """The foreground colours with the new background's light on their edges.

    The light is the blurred background, weighted by the blurred 1 - alpha.

    Shape:
        foreground, light: [3, h, w], Y'CbCr; alpha: [h, w]; output: [3, h, w].
    """
    sigma = wrap_sigma(alpha.shape)
    weight = strength * cv2.GaussianBlur(1 - alpha, (0, 0), sigma)
    soft = np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in light])
    return np.asarray(foreground + weight * (soft - foreground), np.float32)
