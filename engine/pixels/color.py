"""Conversion between colour representations: RGB, YCbCr matrices, ranges, transfer functions."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.errors import BackgroundError
from fusematte.engine.frame import (
    HLG,
    PIXEL_FORMATS,
    PQ,
    Color,
    Frame,
    Map,
    Plane,
    Planes,
    YuvMatrix,
)

RGB_FRAME_COLOR = Color(matrix=1, primaries=1, transfer=13, full_range=True)
"""The colour tags of sRGB pictures as YCbCr: BT.709, full range."""


def as_float(picture: Plane) -> Map:
    """A copy in float32."""
    return np.asarray(picture, np.float32)


def enlarge(picture: Map, height: int, width: int) -> Map:
    """Bilinear interpolation of an [h, w] map."""
    return as_float(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR))


def gray_frame(frame: Frame, shown: Plane) -> Frame:
    """A gray picture in the format and colour range of a frame, and at its time.

    shown: [H, W], 0 (black) to the frame's peak (white).
    """
    black, luma_span, neutral, _ = frame.levels
    peak, dtype = frame.format.peak, frame.format.dtype
    codes = np.arange(peak + 1, dtype=np.float32) / peak * luma_span + (black + 0.5)
    gray = np.full(frame.planes[1].shape, neutral, dtype)
    return replace(frame, planes=(codes.astype(dtype)[shown], gray, gray), alpha=None)


def to_rgb(ycbcr: Map, matrix: YuvMatrix) -> Map:
    """YCbCr to RGB (ITU-T H.273, equations 39 to 41).

    Shape:
        ycbcr: [3, h, w], Y 0..1, Cb and Cr -0.5..0.5; output: [3, h, w], clipped to 0..1.
    """
    luma, cb, cr = ycbcr
    rgb = np.empty_like(ycbcr)
    red, green, blue = rgb
    np.add(luma, 2 * (1 - matrix.red) * cr, out=red)
    np.add(luma, 2 * (1 - matrix.blue) * cb, out=blue)
    np.subtract(luma, matrix.red * red + matrix.blue * blue, out=green)
    green /= 1 - matrix.red - matrix.blue
    return as_float(np.clip(rgb, 0, 1, out=rgb))


def to_ycbcr(rgb: Map, matrix: YuvMatrix) -> tuple[Map, Map]:
    """RGB to YCbCr (ITU-T H.273, equations 39 to 41).

    Shape:
        rgb: [3, h, w], 0..1; output: luma [h, w], 0..1; chroma [2, h, w], -0.5..0.5.
    """
    red, green, blue = rgb
    luma = matrix.red * red + (1 - matrix.red - matrix.blue) * green + matrix.blue * blue
    chroma = [(blue - luma) / (2 * (1 - matrix.blue)), (red - luma) / (2 * (1 - matrix.red))]
    return luma, np.stack(chroma)


STRIP = 1 << 17
"""Pixels converted at a time: as floats they stay in the processor's cache."""


def frame_from_rgb(rgb: NDArray[np.uint8]) -> Frame:
    """A still RGB picture [H, W, 3] as a frame: 4:4:4, 8 bits, full range, BT.709."""
    blank = np.empty((1, 1), np.uint8)
    frame = Frame(
        planes=(blank, blank, blank), format=PIXEL_FORMATS["yuv444p"], color=RGB_FRAME_COLOR
    )
    y, u, v = (np.empty(rgb.shape[:2], np.uint8) for _ in range(3))
    matrix = _code_matrix(frame)
    rows = max(1, STRIP // max(1, rgb.shape[1]))
    for top in range(0, rgb.shape[0], rows):  # all of it in floats would take four times the memory
        part = slice(top, top + rows)
        codes = cv2.transform(as_float(rgb[part]), matrix)
        cv2.split(cv2.convertScaleAbs(codes), [y[part], u[part], v[part]])
    return frame.with_planes((y, u, v))


def _code_matrix(frame: Frame) -> Map:
    """[3, 4]: from R'G'B' in 0..255 and 1 to the code values of a frame, not rounded."""
    black, _, neutral, _ = frame.levels
    luma, chroma = to_ycbcr(np.eye(3, dtype=np.float32)[:, None], frame.matrix)
    linear = np.vstack([luma, *chroma]) * spans(frame)[:, None] / 255
    return as_float(np.column_stack([linear, [black, neutral, neutral]]))


def convert_planes(planes: Planes, source: Frame, target: Frame) -> Planes:
    """Converts planes from the colour tags of ``source`` to those of ``target``; sizes stay.

    Raises:
        BackgroundError: ``source`` is HDR and ``target`` has another transfer function.
    """
    same_light = _same_light(source.color, target.color)
    if same_light and (source.matrix, source.levels) == (target.matrix, target.levels):
        return planes
    luma, chroma = to_unit_range(planes, source)
    if source.matrix != target.matrix or not same_light:
        whole = np.stack([luma, *(enlarge(plane, *luma.shape) for plane in chroma)])
        rgb = to_rgb(whole, source.matrix)
        if not same_light:
            rgb = convert_light(rgb, source.color, target.color)
        luma, whole = to_ycbcr(rgb, target.matrix)
        chroma = np.stack(
            [
                cv2.resize(plane, chroma.shape[:0:-1], interpolation=cv2.INTER_AREA)
                for plane in whole
            ]
        )
    return _quantise(luma, chroma, target)


def to_unit_range(planes: Planes, frame: Frame) -> tuple[Map, Map]:
    """Code values as luma [h, w], 0..1, and chroma [2, h, w], -0.5..0.5."""
    black, luma_span, neutral, chroma_span = frame.levels
    luma = (as_float(planes[0]) - black) / luma_span
    chroma = (np.stack([as_float(plane) for plane in planes[1:]]) - neutral) / chroma_span
    return luma, chroma


def spans(frame: Frame) -> Map:
    """Code values per unit of Y, Cb and Cr: [3]."""
    _, luma_span, _, chroma_span = frame.levels
    return np.array([luma_span, chroma_span, chroma_span], np.float32)


def _quantise(luma: Map, chroma: Map, target: Frame) -> Planes:
    black, luma_span, neutral, chroma_span = target.levels
    peak, dtype = (1 << target.format.bits) - 1, target.format.dtype
    y = np.clip(luma * luma_span + (black + 0.5), 0, peak).astype(dtype)
    u, v = np.clip(chroma * chroma_span + (neutral + 0.5), 0, peak).astype(dtype)
    return y, u, v


_WHITE = 203.0
"""Luminance of diffuse white in HDR video, in cd/m2 (ITU-R BT.2408, table 1)."""
_PQ_PEAK, _HLG_PEAK = 10_000.0, 1000.0
_HLG_GAMMA = 1.2
_BT2020_PRIMARIES, _SRGB, _LINEAR = 9, 13, 8

_TO_BT2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]], np.float32
)
"""Linear RGB with BT.709 primaries to BT.2020 primaries (ITU-R BT.2087-0, section 2.2)."""
_TO_BT709 = np.asarray(np.linalg.inv(_TO_BT2020), np.float32)
_BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)


def to_light(signal: Map, transfer: int) -> Map:
    """R'G'B' [3, h, w] in 0..1 as linear display light; 1 is diffuse white.

    Source: ITU-R BT.1886 for standard video, IEC 61966-2-1 for sRGB, BT.2100 tables 4 and 5.
    """
    if transfer == PQ:
        root = np.power(signal, 1 / 78.84375)
        light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        return as_float(np.power(light, 1 / 0.1593017578125) * (_PQ_PEAK / _WHITE))
    if transfer == HLG:
        scene = np.where(
            signal <= 0.5,
            signal**2 / 3,
            (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12,
        )
        luminance = np.tensordot(_BT2020_LUMINANCE, scene, 1)
        return as_float(scene * np.power(luminance, _HLG_GAMMA - 1) * (_HLG_PEAK / _WHITE))
    if transfer == _LINEAR:
        return signal
    if transfer == _SRGB:
        bent = np.power((signal + 0.055) / 1.055, 2.4)
        return as_float(np.where(signal <= 0.04045, signal / 12.92, bent))
    return as_float(np.power(signal, 2.4))


def from_light(light: Map, transfer: int) -> Map:
    """The inverse of ``to_light``, clipped to 0..1."""
    light = as_float(np.maximum(light, 0))
    if transfer == PQ:
        power = np.power(np.minimum(light * (_WHITE / _PQ_PEAK), 1), 0.1593017578125)
        return as_float(
            np.power((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power), 78.84375)
        )
    if transfer == HLG:
        shown = light * (_WHITE / _HLG_PEAK)
        luminance = np.maximum(np.tensordot(_BT2020_LUMINANCE, shown, 1), 1e-6)
        scene = np.minimum(shown * np.power(luminance, (1 - _HLG_GAMMA) / _HLG_GAMMA), 1)
        bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-6)) + 0.55991073
        return as_float(np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright))
    light = as_float(np.minimum(light, 1))
    if transfer == _LINEAR:
        return light
    if transfer == _SRGB:
        bent = 1.055 * np.power(light, 1 / 2.4) - 0.055
        return as_float(np.where(light <= 0.0031308, light * 12.92, bent))
    return as_float(np.power(light, 1 / 2.4))


def convert_light(rgb: Map, source: Color, target: Color) -> Map:
    """Converts R'G'B' [3, h, w] between transfer functions and primaries; diffuse whites match.

    Raises:
        BackgroundError: ``source`` is HDR and ``target`` has another transfer function.
    """
    if source.is_hdr and source.transfer != target.transfer:
        raise BackgroundError(
            "the background is HDR (PQ or HLG) and the video has another transfer function",
            option="background",
            remedy="convert the background to the video's first",
        )
    light = to_light(rgb, source.transfer)
    wide, wanted = (color.primaries == _BT2020_PRIMARIES for color in (source, target))
    if wide != wanted:
        light = as_float(np.tensordot(_TO_BT2020 if wanted else _TO_BT709, light, 1))
    return from_light(light, target.transfer if target.is_hdr else source.transfer)


def viewable(rgb: Map, color: Color) -> Map:
    """R'G'B' [3, h, w] as an SDR screen would show it, which is what the network was trained on.

    PQ code values look flat and dark when shown as SDR; HLG is designed to be shown so.
    """
    if color.transfer != PQ:
        return rgb
    return from_light(to_light(rgb, PQ), transfer=1)


def _same_light(source: Color, target: Color) -> bool:
    """Whether transfer function and primaries match; all SDR transfers count as one."""
    wide = [color.primaries == _BT2020_PRIMARIES for color in (source, target)]
    ranges = [color.transfer if color.is_hdr else 0 for color in (source, target)]
    return wide[0] == wide[1] and ranges[0] == ranges[1]
