"""Compositing of still pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.compositing.backgrounds import Background, TransparentBackground
from fusematte.engine.compositing.composite import compose
from fusematte.engine.compositing.look import PLAIN, Look
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Selection
from fusematte.engine.matting.stills import matte_still
from fusematte.engine.media.av_frames import rgb_of
from fusematte.engine.pixels.color import frame_from_rgb


def compose_picture(
    picture: NDArray[np.uint8],
    matter: Matter,
    background: Background,
    look: Look = PLAIN,
    selection: Selection = (),
) -> NDArray[np.uint8]:
    """Composites the people in an RGB picture [H, W, 3], uint8, over a background.

    selection: see ``matte_picture``.

    Shape:
        output: [H, W, 3], RGB; over ``transparent`` [H, W, 4], RGBA with straight alpha.
    """
    frame = frame_from_rgb(picture)
    made = compose(frame, matte_still(frame, matter, selection), background, look=look).frame
    colors = rgb_of(made)
    if not isinstance(background, TransparentBackground):
        return colors
    assert made.alpha is not None
    return np.dstack([colors, made.alpha])
