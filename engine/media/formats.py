"""Which containers, codecs and pixel formats go together, and what is chosen by itself."""

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
from fusematte.engine.media.notices import OnlyNews

log = logging.getLogger(__name__)
log.addFilter(OnlyNews())

Content = Literal["color", "gray", "rgba"]
"""What an output shows: pictures, a gray plane (an alpha), or pictures with their alpha."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a video is encoded; None leaves it to the container and the encoder.

    codec: an encoder of libav.
    pixel_format: as libav names it.
    bitrate: bits per second; crf: constant quality, lower is better.  Not both.
    preset: the encoder's speed.
    """

    codec: str | None = None
    pixel_format: str | None = None
    bitrate: int | None = None
    crf: int | None = None
    preset: str | None = None

    @property
    def named(self) -> list[str]:
        """The command line's names of what is set."""
        return [f"--{k.replace('_', '-')}" for k, v in vars(self).items() if v is not None]


class Container(NamedTuple):
    """What a file format can do.

    name: libav's.
    codec, alpha_codec: what pictures are encoded with, and pictures with an alpha.
    reorders: stores decoding times below zero, which B-frames need to keep their own times.
    rotates: stores a rotation for display.
    streams: can be written to a pipe, which cannot go back.
    silent: an animated picture, which has no sound by its nature.
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
"""What goes on as it came when standard input and output are piped."""

CODECS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1", "prores_ks", "h264_nvenc")
"""Those that error messages propose."""

ALPHA_CONTAINERS = {
    "prores_ks": ("mov", "matroska"),
    "libvpx-vp9": ("webm", "matroska"),
    "ffv1": ("matroska",),
    "libx265": ("mov", "mp4"),
    "gif": ("gif",),
    "libwebp_anim": ("webp",),
    "apng": ("apng",),
}
"""Encoders of transparent pictures, and the containers from which players get the alpha back."""

ALPHA_CHOICES = (
    "write .mov (prores_ks), .webm (libvpx-vp9), .mkv (ffv1, libvpx-vp9, prores_ks), .webp, "
    ".apng, .gif or a sequence of .png, .tiff or .exr"
)


class Quality(NamedTuple):
    """A range of constant qualities and the one that is chosen."""

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
"""Those of x264 and x265, which libav does not know."""
_TS_CODECS = {"h264", "hevc", "mpeg2video", "mpeg4"} | {"aac", "mp2", "mp3", "ac3", "eac3", "opus"}
_PICTURE_SUBTITLES = {"hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"}
_EXPERIMENTAL = {"truehd"}
"""libav writes it into MP4 only when told to, and few players know it there."""
_ACM = {"wmav1", "wmav2", "adpcm_ms", "adpcm_ima_wav", "gsm_ms"}
"""Audio that Matroska stores as Windows names it; libav does not list it."""
_EVEN_CHROMA = ("h264", "hevc")
"""Codecs that cannot crop half a chroma sample: subsampled, they need even sizes."""

_LIMITED_ONLY = ("prores", "mpeg4", "mpeg2video")
"""Codecs that cannot tell that luma spans all code values: players take it for 16..235."""

_NO_BITRATE = ("ffv1", "prores", "huffyuv", "utvideo", "png", "qtrle", "rawvideo")
"""Codecs that are lossless, or of a quality of their own."""

BITRATES = range(1000, 2_000_000_001)


def container_of(name: str, suffix: str) -> Container:
    """The container that a file extension means.

    Raises:
        UsageError: none.
    """
    try:
        return CONTAINERS[suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{name}: unknown kind of video file; use one of {', '.join(CONTAINERS)}, "
            "or name a sequence of pictures: out_%05d.png, .tiff or .exr"
        ) from None


def codec_of(name: str, kind: Container, content: Content, encoding: Encoding) -> av.Codec:
    """The encoder of a file.

    Raises:
        UsageError: it is unknown, or the container cannot hold what it makes.
    """
    chosen = encoding.codec or (kind.alpha_codec if content == "rgba" else kind.codec)
    if chosen is None:
        raise UsageError(f"{name}: {Path(name).suffix} cannot hold transparency; {ALPHA_CHOICES}")
    codec = find_codec(chosen)
    if content == "rgba" and kind.name not in ALPHA_CONTAINERS.get(codec.name, ()):
        raise UsageError(
            f"{name}: {codec.name} in {Path(name).suffix or kind.name} cannot hold transparency; "
            f"{ALPHA_CHOICES}"
        )
    return codec


def find_codec(name: str) -> av.Codec:
    """libav's encoder of a name.

    Raises:
        UsageError: there is none.
    """
    try:
        codec = av.Codec(name, "w")
    except UnknownCodecError:
        codec = None
    if codec is None or codec.type != "video":
        raise UsageError(f"unknown video codec {name!r}; use one of {', '.join(CODECS)}")
    return codec


def codecs_of(container: OutputContainer) -> set[str]:
    """The canonical names of what a container can store; libav does not know it of all."""
    name = container.format.name
    if name == "mpegts":
        return _TS_CODECS
    if name == "yuv4mpegpipe":
        return {"rawvideo"}
    able = container.supported_codecs
    if name == "mp4":  # PCM fails at the very end there, and few players know it
        return {codec for codec in able if not codec.startswith("pcm_")} - _EXPERIMENTAL
    if name == "mov":  # only its header tells
        return able - {"flac"}
    return able | _PICTURE_SUBTITLES | _ACM if name == "matroska" else able


def encoder_options(codec: av.Codec, encoding: Encoding) -> dict[str, str]:
    """The encoder's private options.

    Raises:
        UsageError: it has no such option, or not such a value.
    """
    known = {option.name: option for option in codec.create("video").supported_options.private}
    options = dict(_DEFAULTS.get(codec.name, {}))
    for name, value in (("crf", encoding.crf), ("preset", encoding.preset)):
        if value is not None and name not in known:
            raise UsageError(f"codec {codec.name} has no {name}; leave --{name} out")
    _check_bitrate(codec, encoding)
    crf = _crf(codec, encoding) if "crf" in known else None
    if crf is not None:
        options["crf"] = str(crf)
    if encoding.preset is not None:
        able = _presets(codec.name, known["preset"])
        if encoding.preset not in able:
            raise UsageError(
                f"codec {codec.name} has no preset {encoding.preset!r}; "
                f"use one of {', '.join(able)}"
            )
        options["preset"] = encoding.preset
    return options


def _presets(codec: str, option: Any) -> Sequence[str]:  # noqa: ANN401
    """The presets of an encoder, by its option of libav."""
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
            "lower is better"
        )
    return crf


def _check_bitrate(codec: av.Codec, encoding: Encoding) -> None:
    if encoding.bitrate is None:
        return
    if encoding.crf is not None:
        raise UsageError("crf and bitrate exclude each other; leave one of them out")
    if codec.canonical_name in _NO_BITRATE:
        raise UsageError(f"codec {codec.name} takes no bitrate; leave --bitrate out")
    if encoding.bitrate not in BITRATES:
        raise UsageError(f"bitrate must be 1k to 2G bits per second, not {encoding.bitrate}")


class Picture(NamedTuple):
    """What is known of the pictures that come: their layout, size and colour."""

    format: PixelFormat
    width: int
    height: int
    color: Color


def pixel_format_of(
    name: str, codec: av.Codec, picture: Picture, content: Content, wanted: str | None
) -> str:
    """The layout to encode in: the one named, else the codec's nearest to the pictures'.

    Raises:
        UsageError: the codec does not know the one named, or cannot keep what the pictures have.
    """
    able = _able(codec, picture, content)
    if wanted is not None and wanted not in able:
        raise UsageError(
            f"{name}: {codec.name} cannot encode {_WHAT[content]} as {wanted!r}; "
            f"use one of {', '.join(able)}"
        )
    chosen = wanted or _nearest(codec, able, picture, content)
    if _bits(chosen) < picture.format.bits:
        _check_reduction(name, codec, chosen, picture, content, asked=wanted is not None)
    return chosen


_WHAT = {"color": "this video", "gray": "an alpha", "rgba": "a video with alpha"}


def _able(codec: av.Codec, picture: Picture, content: Content) -> list[str]:
    """The codec's layouts for a kind of content and for the pictures' size."""
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
        return "yuva420p"  # the only one that browsers show
    wanted = {
        "color": picture.format.name,
        "gray": "gray" if picture.format.bits == 8 else "gray10le",
        "rgba": picture.format.with_alpha,
    }[content]
    if wanted in able:
        return wanted
    # Without gray, chroma matters least; where a gray of fewer bits is there, so much the better.
    substitute = picture.format.name.replace("422", "420").replace("444", "420")
    best, _ = find_best_pix_fmt_of_list(able, substitute if content == "gray" else wanted)
    return best.name if best else wanted


def _bits(name: str) -> int:
    return av.VideoFormat(name, 2, 2).components[0].bits


def _check_reduction(
    name: str, codec: av.Codec, chosen: str, picture: Picture, content: Content, *, asked: bool
) -> None:
    if picture.color.is_hdr and content != "gray":
        raise UsageError(
            f"{name}: {chosen} of {codec.name} has too few bits for HDR video; "
            "write .mp4, .mov or .mkv in 10 bits"
        )
    if not asked:
        log.warning(
            "%s: %s has no more than %d bits; the video has %d",
            name, codec.name, _bits(chosen), picture.format.bits,
        )  # fmt: skip


def encoder_color(codec: av.Codec, color: Color) -> Color:
    """The colour tags that come out."""
    if codec.name in LAYOUTS:
        return SRGB
    full_range = color.full_range and codec.canonical_name not in _LIMITED_ONLY
    return color._replace(full_range=full_range)


def _splits_evenly(name: str, width: int, height: int) -> bool:
    """Whether no chroma sample of the format reaches over the picture's edge."""
    format = av.VideoFormat(name, 2, 2)
    halves = format.chroma_width() == 1 and width % 2, format.chroma_height() == 1 and height % 2
    return not any(halves)
