"""Conversion between libav's pictures and the engine's frames: formats, colour tags, planes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import av
import numpy as np
from av.codec.codec import find_best_pix_fmt_of_list
from av.sidedata.sidedata import SideData, SideDataContainer, Type
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from fusematte.engine.frame import (
    BT709,
    CLOCK,
    PIXEL_FORMATS,
    Color,
    Frame,
    PixelFormat,
    Plane,
    Planes,
)
from fusematte.engine.pixels.buffer_pool import is_leased
from fusematte.engine.pixels.color import RGB_FRAME_COLOR

_MATRIX = struct.Struct("=9i")
_UNSPECIFIED, LIMITED, FULL = 0, 1, 2  # AVCOL_RANGE_*
_BT709, _BT601 = 1, 6  # AVCOL_SPC_*
_SWS_COLORSPACES = {_BT709: 1, _BT601: 5}  # to SWS_CS_*, for pictures converted from RGB


def nearest_format(format: av.VideoFormat) -> PixelFormat:
    """The engine's pixel format that loses least, in chroma resolution and bit depth."""
    name = format.name.replace("yuvj", "yuv")
    if len(format.components) <= 2 and not format.has_palette:  # gray, maybe with alpha
        name = "yuv420p" if format.components[0].bits <= 8 else "yuv420p10le"
    if name not in PIXEL_FORMATS:
        best, _ = find_best_pix_fmt_of_list(list(PIXEL_FORMATS), format)
        name = best.name if best else "yuv420p"
    return PIXEL_FORMATS[name]


def color_of(picture: av.VideoFrame) -> Color:
    """The colour tags of the frame that a picture becomes."""
    if picture.format.is_rgb or picture.format.has_palette:
        matrix = _BT709 if min(picture.width, picture.height) >= 720 else _BT601
        return Color(matrix, picture.color_primaries, picture.color_trc, full_range=False)
    return Color(picture.colorspace, picture.color_primaries, picture.color_trc, is_full(picture))


def is_full(picture: av.VideoFrame) -> bool:
    """Whether luma spans all code values; gray does unless tagged, as in libav."""
    is_gray = len(picture.format.components) <= 2
    untagged = picture.color_range == _UNSPECIFIED
    return (
        picture.color_range == FULL
        or picture.format.name.startswith("yuvj")
        or (is_gray and untagged)
    )


def range_of(color: Color) -> int:
    """The colour range as libav's AVCOL_RANGE_* number."""
    return FULL if color.full_range else LIMITED


PNG = ("png", "apng")
"""Codecs whose pictures' side data must not be looked at: PyAV frees the name of an ICC profile,
which is still libav's, and the process crashes."""


def side_data_of(picture: av.VideoFrame, codec: str | None = None) -> Mapping[Type, SideData]:
    """A picture's side data; empty if PyAV does not know one of its kinds (EXIF), and for PNG.

    codec: what decoded it, by libav's name; if None, any layout that PNG has counts as PNG.
    """
    layout = picture.format
    like_png = len(layout.components) < 3 or not layout.is_planar
    if like_png if codec is None else codec in PNG:
        return {}
    try:
        # Not ``picture.side_data``: the two would refer to each other, and so keep the picture and
        # all the decoder's free buffers until Python looks for such pairs, which it rarely does.
        side_data: Mapping[Any, Any] = SideDataContainer(picture)  # type: ignore[call-arg]
    except ValueError:
        return {}
    return side_data


def orientation_of(picture: av.VideoFrame, codec: str | None = None) -> tuple[int, bool]:
    """How a player transforms the picture: clockwise rotation in degrees (0, 90, 180, 270), and
    whether it is flipped vertically before that, as mirrored videos are.

    codec: see ``side_data_of``.
    """
    rotation = round(-picture.rotation / 90) * 90 % 360  # libav's is counterclockwise
    matrix = side_data_of(picture, codec).get(Type.DISPLAYMATRIX)
    if matrix is None:
        return rotation, False
    a, b, _, c, d, *_ = _MATRIX.unpack(bytes(matrix))
    return rotation, a * d < b * c


def has_alpha(format: av.VideoFormat) -> bool:
    """Whether a format has transparency, in a plane or in its palette."""
    return format.has_palette or any(component.is_alpha for component in format.components)


def planes_of(
    picture: av.VideoFrame, format: PixelFormat, color: Color, scaler: VideoReformatter
) -> tuple[Planes, Plane | None]:
    """Y, U, V and alpha of a picture: views of its buffers, or of a converted copy if its format is
    another; alpha is None for opaque pictures.
    """
    name = format.with_alpha if has_alpha(picture.format) else format.name
    if picture.format.name.replace("yuvj", "yuv") != name:
        picture = _convert(picture, name, color, scaler)
    luma, blue, red, *alpha = (_view(plane, format) for plane in picture.planes)
    return (luma, blue, red), alpha[0] if alpha else None


def upside_down(planes: Planes, alpha: Plane | None) -> tuple[Planes, Plane | None]:
    """The planes flipped vertically: views."""
    y, u, v = planes
    return (y[::-1], u[::-1], v[::-1]), None if alpha is None else alpha[::-1]


def _convert(
    picture: av.VideoFrame, name: str, color: Color, scaler: VideoReformatter
) -> av.VideoFrame:
    full, rgb = is_full(picture), picture.format.is_rgb or picture.format.has_palette
    return scaler.reformat(
        picture,
        format=name,
        dst_colorspace=_SWS_COLORSPACES.get(color.matrix),
        src_color_range=FULL if full or rgb else LIMITED,
        dst_color_range=range_of(color),
    )


def _view(plane: VideoPlane, format: PixelFormat) -> Plane:
    """A view of the plane's samples without padding; the array keeps the picture alive."""
    stride = abs(plane.line_size)
    view: Plane = np.ndarray(
        (plane.height, plane.width),
        format.dtype,
        memoryview(plane),
        strides=(stride, np.dtype(format.dtype).itemsize),
    )
    view.flags.writeable = False
    return view[::-1] if plane.line_size < 0 else view


def new_picture(planes: tuple[Plane, ...], format: str) -> av.VideoFrame:
    """The planes as a libav picture: without a copy if they come from ``pixels.buffer_pool``."""
    height, width = planes[0].shape
    # PyAV accepts neither odd sizes nor an alpha plane through DLPack.
    if len(planes) < 4 and is_leased(planes) and not (height % 2 or width % 2):
        return av.VideoFrame.from_dlpack(planes, format=format)
    picture = av.VideoFrame(width, height, format)
    for target, source in zip(picture.planes, planes, strict=True):
        np.copyto(_writable(target, source.dtype), source)
    return picture


def picture_of(frame: Frame) -> av.VideoFrame:
    """A frame as a libav picture with colour tags and pts; see ``new_picture``."""
    picture = new_picture(frame.planes, frame.format.name)
    picture.pts, picture.time_base = frame.pts, frame.time_base
    picture.colorspace, picture.color_range = frame.color.matrix, range_of(frame.color)
    picture.color_primaries, picture.color_trc = frame.color.primaries, frame.color.transfer
    return picture


def frame_of(picture: av.VideoFrame, scaler: VideoReformatter | None = None) -> Frame:
    """A libav picture as a frame: views of its buffers if the engine has its pixel format.

    scaler: reused between calls, it saves the set-up of the conversion.
    """
    format, color = nearest_format(picture.format), color_of(picture)
    planes, alpha = planes_of(picture, format, color, scaler or VideoReformatter())
    rotation, mirrored = orientation_of(picture)
    if mirrored:
        planes, alpha = upside_down(planes, alpha)
    return Frame(
        planes=planes,
        format=format,
        color=color,
        pts=picture.pts or 0,
        time_base=picture.time_base or CLOCK,
        duration=picture.duration,
        rotation=rotation,
        alpha=alpha,
    )


def frame_of_rgb(rgb: NDArray[np.uint8], scaler: VideoReformatter) -> Frame:
    """An RGB picture [H, W, 3] as a frame: 4:4:4, 8 bits, full range, BT.709; one copy.

    Fast, with libav; ``pixels.color.frame_from_rgb`` is exact.
    """
    picture = scaler.reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24"),
        format="yuv444p",
        dst_colorspace=_SWS_COLORSPACES[_BT709],
        src_color_range=FULL,
        dst_color_range=FULL,
    )
    format = PIXEL_FORMATS["yuv444p"]
    planes, _ = planes_of(picture, format, RGB_FRAME_COLOR, scaler)
    return Frame(planes=planes, format=format, color=RGB_FRAME_COLOR)


def rgb_of(frame: Frame) -> NDArray[np.uint8]:
    """A frame as an RGB picture [H, W, 3], uint8, a new array; it is not rotated."""
    matrix = _BT709 if frame.matrix == BT709 else _BT601
    picture = picture_of(frame).reformat(
        format="rgb24",
        src_colorspace=_SWS_COLORSPACES[matrix],
        src_color_range=range_of(frame.color),
        dst_color_range=FULL,
    )
    return np.asarray(picture.to_ndarray(), np.uint8)


def rgba_of(frame: Frame) -> NDArray[np.uint8]:
    """As ``rgb_of``, with straight alpha: [H, W, 4], uint8; opaque if the frame has none."""
    colors = rgb_of(frame)
    if frame.alpha is None:
        alpha: Plane = np.full(colors.shape[:2], 255, np.uint8)
    else:
        alpha = to_depth(frame.alpha, frame.format.bits, 8)
    return np.dstack([colors, alpha])


def _writable(plane: VideoPlane, dtype: np.dtype[Any]) -> Plane:
    """A writable view of the samples of a new picture's plane."""
    strides = (plane.line_size, dtype.itemsize)
    return np.ndarray((plane.height, plane.width), dtype, memoryview(plane), strides=strides)


def to_depth(plane: Plane, bits: int, target: int) -> Plane:
    """Converts a full-range plane from ``bits`` to ``target`` bits (8 to 16); peak maps to peak."""
    if bits == target:
        return plane
    peak, wanted = (1 << bits) - 1, (1 << target) - 1
    table = (np.arange(peak + 1, dtype=np.uint64) * wanted * 2 + peak) // (2 * peak)
    return np.asarray(table.astype(np.uint8 if target == 8 else np.uint16)[plane])
