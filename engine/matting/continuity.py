"""Detection of cuts and gaps between consecutive frames."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np

from fusematte.engine.frame import Map

GAP = Fraction(1, 2)
"""Seconds; across a longer gap the earlier frame is no guide to the later one."""
CUT = 0.1
"""Mean change of the coarse luma from which on it is a cut: moving cameras stay below 0.02, cuts
between two scenes are at 0.17 and above."""
COARSE = 32, 18
"""Width and height at which two frames are compared."""


class Continuity:
    """Detects cuts and long gaps in a sequence of frames.

    before: the previous frame's coarse luma and its time; None if there is no previous frame.
    """

    def __init__(self) -> None:
        self.before: tuple[Map, Fraction] | None = None

    def breaks(self, luma: Map, time: Fraction) -> bool:
        """Whether there is a cut or a long gap before this frame, which becomes the previous one.

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
        """Forgets the previous frame."""
        self.before = None
