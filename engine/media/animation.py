"""Encoding of animated pictures: GIF, WebP and APNG, from sRGB."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from fusematte.engine.frame import Color, Frame, Plane
from fusematte.engine.media.av_frames import rgba_of, to_depth

LAYOUTS = {"gif": "pal8", "libwebp_anim": "bgra", "apng": "rgba"}
"""The encoders, and the pixel format each takes."""
SRGB = Color(matrix=0, primaries=1, transfer=13, full_range=True)
LOOPING = {"webp": {"loop": "0"}, "apng": {"plays": "0"}}
"""Container options for endless looping, which GIF does by default."""
OPAQUE_FROM = 128
"""Alpha from which on a pixel is opaque: GIF has no partial transparency."""


class Animation:
    """Converts frames to pictures for one of these encoders; codec: its name."""

    def __init__(self, codec: str) -> None:
        self._layout = LAYOUTS[codec]
        self._palette: Graph | None = None

    def color(self, frame: Frame) -> av.VideoFrame:
        """A frame, with its alpha if it has one."""
        return self._picture(rgba_of(frame))

    def gray(self, plane: Plane) -> av.VideoFrame:
        """A full-range gray plane: uint8, or uint16 of 10 bits."""
        gray = plane if plane.dtype == np.uint8 else to_depth(plane, 10, 8)
        return self._picture(np.dstack([gray, gray, gray, np.full_like(gray, 255)]))

    def _picture(self, rgba: NDArray[np.uint8]) -> av.VideoFrame:
        picture = av.VideoFrame.from_ndarray(rgba, "rgba")
        if self._layout != "pal8":
            return picture.reformat(format=self._layout)
        if self._palette is None:
            self._palette = _palette_graph(picture)
        self._palette.push(picture)
        made = self._palette.pull()
        assert isinstance(made, av.VideoFrame)
        return made


def _palette_graph(like: av.VideoFrame) -> Graph:
    """A filter that gives each picture its own palette; a common one would need all pictures."""
    graph = Graph()
    source = graph.add_buffer(
        width=like.width, height=like.height, format=like.format, time_base=Fraction(1)
    )
    split = graph.add("split")
    palette = graph.add("palettegen", "stats_mode=single:reserve_transparent=1")
    use = graph.add("paletteuse", f"new=1:alpha_threshold={OPAQUE_FROM}")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()
    return graph
