"""Which containers, codecs and pixel formats go together, and the defaults among them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
from av.codec.codec import UnknownCodecError, find_best_pix_fmt_of_list
from av.container import OutputContainer

from fusematte.engine.errors import UsageError
from fusematte.engine.frame import PIXEL_FORMATS, Color, PixelFormat
from fusematte.engine.media.animation import LAYOUTS, SRGB
from fusematte.engine.media.av_frames import has_alpha
from fusematte.engine.media.notices import CollectedHere

log = logging.getLogger(__name__)
log.addFilter(CollectedHere())

Content = Literal["color", "gray", "rgba"]
"""The content of an output: colour video, a grayscale alpha, or colour with alpha."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Encoding settings; None takes the default of the container and the encoder.

    codec: name of a libav encoder.
    pixel_format: libav's name.
    bitrate: bits per second; crf: constant quality, lower is better.  Not both.
    preset: encoder preset.
    """

    codec: str | None = None
    pixel_format: str | None = None
    bitrate: int | None = None
    crf: int | None = None
    preset: str | None = None

    @property
    def named(self) -> list[str]:
        """The command-line names of the settings that are given."""
        return [f"--{k.replace('_', '-')}" for k, v in vars(self).items() if v is not None]


class Container(NamedTuple):
    """The abilities of a container.

    name: libav's name.
    codec, alpha_codec: default encoders, without and with alpha.
    reorders: stores negative dts, which B-frames need to keep exact timestamps.
    rotates: stores a display rotation.
    streams: can be written to a pipe, without seeking.
    silent: an animated picture, without audio.
    """

    name: str
    codec: str = "libx264"
    alpha_codec: str | None = None
    reorders: bool = False
    rotates: bool = False
    streams: bool = False
    silent: bool = False


CONTAINERS = {
    ".mp4": Container("mp4", reorders=True, rotates=True),
    ".m4v": Container("mp4", reorders=True, rotates=True),
    ".mov": Container("mov", alpha_codec="prores_ks", reorders=True, rotates=True),
    ".mkv": Container("matroska", alpha_codec="ffv1", reorders=True, rotates=True, streams=True),
    ".webm": Container(
        "webm", "libvpx-vp9", alpha_codec="libvpx-vp9", reorders=True, rotates=True, streams=True
    ),
    ".ts": Container("mpegts", streams=True),
    ".avi": Container("avi"),
    ".flv": Container("flv"),
    ".gif": Container("gif", "gif", alpha_codec="gif", silent=True),
    ".webp": Container("webp", "libwebp_anim", alpha_codec="libwebp_anim", silent=True),
    ".apng": Container("apng", "apng", alpha_codec="apng", silent=True),
    ".nut": Container("nut", "rawvideo", reorders=True, streams=True),
    ".y4m": Container("yuv4mpegpipe", "rawvideo", streams=True),
    ".yuv": Container("rawvideo", "rawvideo", streams=True),
}

PIPED = {"nut": ".nut", "yuv4mpegpipe": ".y4m", "rawvideo": ".yuv"}
"""Containers that standard output takes over from standard input."""

CODECS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1", "prores_ks", "h264_nvenc")
"""Encoders that error messages suggest."""

ALPHA_CONTAINERS = {
    "prores_ks": ("mov", "matroska"),
    "libvpx-vp9": ("webm", "matroska"),
    "ffv1": ("matroska",),
    "libx265": ("mov", "mp4"),
    "gif": ("gif",),
    "libwebp_anim": ("webp",),
    "apng": ("apng",),
}
"""Encoders with alpha, and the containers in which players find it."""

ALPHA_CHOICES = (
    "write .mov (prores_ks), .webm (libvpx-vp9), .mkv (ffv1, libvpx-vp9, prores_ks), .webp, "
    ".apng, .gif or a sequence of .png, .tiff or .exr"
)


class Quality(NamedTuple):
    """The crf range of a codec, and the default."""

    least: int
    most: int
    default: int


QUALITIES = {
    "h264": Quality(0, 51, 18),
    "hevc": Quality(0, 51, 24),
    "vp8": Quality(4, 63, 20),
    "vp9": Quality(0, 63, 30),
    "av1": Quality(0, 63, 30),
}

_DEFAULTS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "veryfast", "x265-params": "log-level=error"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "7", "row-mt": "1"},
    "libsvtav1": {"preset": "10"},
    "libwebp_anim": {"quality": "85"},
}
_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
    "placebo",
)  # fmt: skip
"""The presets of x264 and x265, which libav does not list."""
_TS_CODECS = {"h264", "hevc", "mpeg2video", "mpeg4"} | {"aac", "mp2", "mp3", "ac3", "eac3", "opus"}
_PICTURE_SUBTITLES = {"hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"}
_EXPERIMENTAL = {"truehd"}
"""libav only writes it into MP4 with a flag, and few players support it there."""
_EVEN_CHROMA = ("h264", "hevc")
"""Codecs that cannot crop half a chroma sample: subsampled, they need even sizes."""

_LIMITED_ONLY = ("prores", "mpeg4", "mpeg2video")
"""Codecs that cannot signal full range: players assume luma 16..235."""

_NO_BITRATE = ("ffv1", "prores", "huffyuv", "utvideo", "png", "qtrle", "rawvideo")
"""Codecs without a bitrate setting: lossless, or with a fixed quality."""

BITRATES = range(1000, 2_000_000_001)


def container_of(name: str, suffix: str) -> Container:
    """The container for a file extension.

    Raises:
        UsageError: the extension is unknown.
    """
    try:
        return CONTAINERS[suffix.lower()]
    except KeyError:
        raise UsageError.at(
            name,
            "unknown kind of video file",
            remedy=f"use one of {', '.join(CONTAINERS)}, "
            "or a sequence of pictures: out_%05d.png, .tiff or .exr",
        ) from None


def codec_of(name: str, kind: Container, content: Content, encoding: Encoding) -> av.Codec:
    """The encoder for a file.

    Raises:
        UsageError: it is unknown, or cannot store transparency in this container.
    """
    chosen = encoding.codec or (kind.alpha_codec if content == "rgba" else kind.codec)
    if chosen is None:
        raise UsageError.at(
            name, f"{Path(name).suffix} cannot hold transparency", remedy=ALPHA_CHOICES
        )
    codec = find_codec(chosen)
    if content == "rgba" and kind.name not in ALPHA_CONTAINERS.get(codec.name, ()):
        raise UsageError.at(
            name,
            f"{codec.name} in {Path(name).suffix or kind.name} cannot hold transparency",
            remedy=ALPHA_CHOICES,
        )
    return codec


def find_codec(name: str) -> av.Codec:
    """The libav encoder of this name.

    Raises:
        UsageError: there is none.
    """
    try:
        codec = av.Codec(name, "w")
    except UnknownCodecError:
        codec = None
    if codec is None or codec.type != "video":
        raise UsageError(
            f"unknown video codec {name!r}",
            remedy=f"use one of {', '.join(CODECS)}",
            option="codec",
        )
    return codec


def codecs_of(container: OutputContainer) -> set[str]:
    """Canonical names of the codecs that a container can store; libav's own lists have errors."""
    name = container.format.name
    if name == "mpegts":
        return _TS_CODECS
    if name == "yuv4mpegpipe":
        return {"rawvideo"}
    able = container.supported_codecs
    if name == "mp4":  # PCM fails when the file is completed, and few players support it
        return {codec for codec in able if not codec.startswith("pcm_")} - _EXPERIMENTAL
    if name == "mov":  # fails when the header is written
        return able - {"flac"}
    return able | _PICTURE_SUBTITLES if name == "matroska" else able


def encoder_options(codec: av.Codec, encoding: Encoding) -> dict[str, str]:
    """The encoder's private options.

    Raises:
        UsageError: the encoder does not have an option, or not with this value.
    """
    known = {option.name: option for option in codec.create("video").supported_options.private}
    options = dict(_DEFAULTS.get(codec.name, {}))
    for name, value in (("crf", encoding.crf), ("preset", encoding.preset)):
        if value is not None and name not in known:
            raise UsageError(
                f"codec {codec.name} has no {name}", remedy=f"leave out --{name}", option=name
            )
    _check_bitrate(codec, encoding)
    crf = _crf(codec, encoding) if "crf" in known else None
    if crf is not None:
        options["crf"] = str(crf)
    if encoding.preset is not None:
        able = _presets(codec.name, known["preset"])
        if encoding.preset not in able:
            raise UsageError(
                f"codec {codec.name} has no preset {encoding.preset!r}",
                remedy=f"use one of {', '.join(able)}",
                option="preset",
            )
        options["preset"] = encoding.preset
    return options


def _presets(codec: str, option: Any) -> Sequence[str]:  # noqa: ANN401
    """The presets of an encoder, from its libav option."""
    if codec in ("libx264", "libx265"):
        return _PRESETS
    numbers = map(str, range(int(option.min), int(option.max) + 1))
    return [choice.name for choice in option.choices] or list(numbers)


def _crf(codec: av.Codec, encoding: Encoding) -> int | None:
    quality, crf = QUALITIES.get(codec.canonical_name), encoding.crf
    if quality is None:
        return crf
    if crf is None:
        return quality.default if encoding.bitrate is None else None
    if not quality.least <= crf <= quality.most:
        raise UsageError(
            f"crf of {codec.name} must be {quality.least} to {quality.most}, not {crf}; "
            "lower is better",
            option="crf",
        )
    return crf


def _check_bitrate(codec: av.Codec, encoding: Encoding) -> None:
    if encoding.bitrate is None:
        return
    if encoding.crf is not None:
        raise UsageError(
            "crf and bitrate exclude each other", remedy="leave out one", option="bitrate"
        )
    if codec.canonical_name in _NO_BITRATE:
        raise UsageError(
            f"codec {codec.name} takes no bitrate", remedy="leave out --bitrate", option="bitrate"
        )
    if encoding.bitrate not in BITRATES:
        raise UsageError(
            f"bitrate must be 1k to 2G bits per second, not {encoding.bitrate}", option="bitrate"
        )


class Picture(NamedTuple):
    """Properties of the frames to be encoded: pixel format, size and colour tags."""

    format: PixelFormat
    width: int
    height: int
    color: Color


def pixel_format_of(
    name: str, codec: av.Codec, picture: Picture, content: Content, wanted: str | None
) -> str:
    """The pixel format to encode in: the requested one, or the codec's nearest to the frames'.

    Raises:
        UsageError: the codec does not support the requested one, or has too few bits for HDR.
    """
    able = _able(codec, picture, content)
    if wanted is not None and wanted not in able:
        raise UsageError.at(
            name,
            f"{codec.name} cannot encode {_WHAT[content]} as {wanted!r}",
            remedy=f"use one of {', '.join(able)}",
            option="pixel_format",
        )
    chosen = wanted or _nearest(codec, able, picture, content)
    if _bits(chosen) < picture.format.bits:
        _check_reduction(name, codec, chosen, picture, content, asked=wanted is not None)
    return chosen


_WHAT = {"color": "this video", "gray": "an alpha", "rgba": "a video with alpha"}


def _able(codec: av.Codec, picture: Picture, content: Content) -> list[str]:
    """The codec's pixel formats for this content and frame size."""
    if codec.name in LAYOUTS:
        return [LAYOUTS[codec.name]]
    names = [format.name for format in codec.video_formats or ()] or [*PIXEL_FORMATS, "gray"]
    formats = [av.VideoFormat(name, 2, 2) for name in names if name != "cuda"]
    if content == "rgba":
        layouts = {layout.with_alpha for layout in PIXEL_FORMATS.values()}
        return [format.name for format in formats if format.name in layouts]
    able = [format.name for format in formats if not has_alpha(format)]
    if codec.canonical_name in _EVEN_CHROMA:
        able = [name for name in able if _splits_evenly(name, picture.width, picture.height)]
    return able


def _nearest(codec: av.Codec, able: list[str], picture: Picture, content: Content) -> str:
    if codec.name in LAYOUTS:
        return LAYOUTS[codec.name]
    if content == "rgba" and codec.name == "libvpx-vp9":
        return "yuva420p"  # the only one that browsers support
    wanted = {
        "color": picture.format.name,
        "gray": "gray" if picture.format.bits == 8 else "gray10le",
        "rgba": picture.format.with_alpha,
    }[content]
    if wanted in able:
        return wanted
    # Without a gray format, chroma can be coarse; a gray of fewer bits is better still.
    substitute = picture.format.name.replace("422", "420").replace("444", "420")
    best, _ = find_best_pix_fmt_of_list(able, substitute if content == "gray" else wanted)
    return best.name if best else wanted


def _bits(name: str) -> int:
    return av.VideoFormat(name, 2, 2).components[0].bits


def _check_reduction(
    name: str, codec: av.Codec, chosen: str, picture: Picture, content: Content, *, asked: bool
) -> None:
    if picture.color.is_hdr and content != "gray":
        raise UsageError.at(
            name,
            f"{chosen} of {codec.name} has too few bits for HDR video",
            option="pixel_format",
            remedy="write .mp4, .mov or .mkv in 10 bits",
        )
    if not asked:
        log.warning(
            "%s: %s has no more than %d bits; the video has %d",
            name, codec.name, _bits(chosen), picture.format.bits,
        )  # fmt: skip


def encoder_color(codec: av.Codec, color: Color) -> Color:
    """The colour tags of the encoded video."""
    if codec.name in LAYOUTS:
        return SRGB
    full_range = color.full_range and codec.canonical_name not in _LIMITED_ONLY
    return color._replace(full_range=full_range)


def _splits_evenly(name: str, width: int, height: int) -> bool:
    """Whether the size is a multiple of the format's chroma subsampling."""
    format = av.VideoFormat(name, 2, 2)
    halves = format.chroma_width() == 1 and width % 2, format.chroma_height() == 1 and height % 2
    return not any(halves)
