"""Whether a frame goes on from the one before it."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np

from fusematte.engine.frame import Map

GAP = Fraction(1, 2)
"""Seconds between two frames from which on the first tells nothing of the second."""
CUT = 0.1
"""Mean change of luma, coarsely seen, that is a cut: moving cameras stay below 0.02, cuts between
two scenes are at 0.17 and above."""
COARSE = 32, 18
"""Size at which two frames are compared for a cut."""


class Continuity:
    """Tells whether a frame goes on from the one before it.

    before: that frame's luma, coarsely seen, and its time; None where there is none.
    """

    def __init__(self) -> None:
        self.before: tuple[Map, Fraction] | None = None

    def breaks(self, luma: Map, time: Fraction) -> bool:
        """Whether there is a cut or a long gap before this frame; takes note of it.

        Shape:
            luma: [h, w], 0..1, of any size.
        """
        coarse = np.asarray(cv2.resize(luma, COARSE, interpolation=cv2.INTER_AREA), np.float32)
        before, self.before = self.before, (coarse, time)
        if before is None:
            return False
        if not 0 <= time - before[1] <= GAP:
            return True
        return float(np.abs(coarse - before[0]).mean()) > CUT

    def reset(self) -> None:
        """Forgets the frame before."""
        self.before = None
