"""HDR mastering metadata: read from decoded pictures, passed to encoders."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction

import av
from av.sidedata.sidedata import Type

from fusematte.engine.frame import Mastering
from fusematte.engine.media.av_frames import side_data_of

_DISPLAY, _LIGHT = struct.Struct("=22i"), struct.Struct("=2I")
"""libav's AVMasteringDisplayMetadata (ten fractions, two flags) and AVContentLightMetadata."""

_COLOR_UNITS, _LUMINANCE_UNITS = 50_000, 10_000
"""SMPTE ST 2086, x264 and x265 count colours in 1/50000 and luminance in 1/10000 cd/m2; SVT-AV1
takes plain numbers."""


def mastering_of(picture: av.VideoFrame, codec: str | None = None) -> Mastering:
    """The mastering metadata of a decoded picture."""
    side_data = side_data_of(picture, codec)
    display, light = None, None
    if data := side_data.get(Type.MASTERING_DISPLAY_METADATA):
        *numbers, has_colors, has_luminance = _DISPLAY.unpack(bytes(data))
        if has_colors and has_luminance:
            display = tuple(map(Fraction, numbers[::2], numbers[1::2]))
    if data := side_data.get(Type.CONTENT_LIGHT_LEVEL):
        light = _LIGHT.unpack(bytes(data))
    return Mastering(display, light)


def mastering_options(encoder: str, mastering: Mastering) -> dict[str, str] | None:
    """The private options that make a libav encoder write it; None if the encoder cannot."""
    if encoder not in _WRITERS:
        return None
    option, display, light, write = _WRITERS[encoder]
    parts = []
    if mastering.display is not None:
        parts.append(f"{display}={_in_words(mastering.display, write)}")
    if mastering.light is not None:
        parts.append("{}={},{}".format(light, *mastering.light))
    return {option: ":".join(parts)} if parts else {}


def _in_words(display: tuple[Fraction, ...], write: Callable[[Fraction, int], str]) -> str:
    x = [write(value, _COLOR_UNITS) for value in display[:8]]
    least, most = (write(value, _LUMINANCE_UNITS) for value in display[8:])
    red, green, blue, white = (f"({x[i]},{x[i + 1]})" for i in (0, 2, 4, 6))
    return f"G{green}B{blue}R{red}WP{white}L({most},{least})"


def _counted(value: Fraction, units: int) -> str:
    return str(round(value * units))


def _plain(value: Fraction, units: int) -> str:  # noqa: ARG001
    return f"{float(value):.6f}"


_WRITERS = {
    "libx264": ("x264-params", "mastering-display", "cll", _counted),
    "libx265": ("x265-params", "master-display", "max-cll", _counted),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", _plain),
}
"""By encoder: the option for its library's parameters, their names, and their number format."""
