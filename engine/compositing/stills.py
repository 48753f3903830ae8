"""Compositing of still pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.compositing.composite import compose
from fusematte.engine.compositing.look import PLAIN, Look
from fusematte.engine.frame import Frame
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Selection
from fusematte.engine.matting.stills import matte_still, still_alpha
from fusematte.engine.media.av_frames import rgb_of
from fusematte.engine.pixels.color import STRIP, frame_from_rgb


def compose_picture(
    picture: NDArray[np.uint8], matter: Matter, background: Background, look: Look = PLAIN
) -> NDArray[np.uint8]:
    """Composites the people in an RGB picture [H, W, 3], uint8, over a background.

    Shape:
        output: [H, W, 3], RGB; over ``transparent`` [H, W, 4], RGBA with straight alpha; over
        ``mask`` [H, W], the alpha.
    """
    return compose_still(frame_from_rgb(picture), matter, background, look, ())


def compose_still(
    frame: Frame, matter: Matter, background: Background, look: Look, selection: Selection
) -> NDArray[np.uint8]:
    """As ``compose_picture``, of a frame in 4:4:4.

    selection: what to keep of it; see ``matte_picture``.
    """
    if background.content == "gray":
        return still_alpha(frame, matter, look.mask, selection)
    made = compose(frame, matte_still(frame, matter, selection), background, look=look).frame
    del frame  # 100 megapixels take 300 MB
    channels = 3 if made.alpha is None else 4
    colors = np.empty((made.height, made.width, channels), np.uint8)
    rows = max(1, STRIP // made.width)
    for top in range(0, made.height, rows):
        part = slice(top, top + rows)
        y, u, v = (plane[part] for plane in made.planes)
        colors[part, :, :3] = rgb_of(made.with_planes((y, u, v)))
    if made.alpha is not None:
        colors[..., 3] = made.alpha
    return colors
