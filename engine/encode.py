"""The video writer: Frames in, a file out with the timestamps, tags and audio of its source.

Until it is complete the file is called PATH.part, so PATH is always whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import av
import numpy as np
from av.codec.codec import UnknownCodecError, find_best_pix_fmt_of_list
from av.codec.context import ThreadType
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from fusematte.engine.decode import Reader
from fusematte.engine.errors import OutputError, UsageError
from fusematte.engine.frame import Color, Frame, Plane
from fusematte.engine.pictures import new_picture, range_of

Packet: TypeAlias = "av.Packet[Any]"


class _Container(NamedTuple):
    """What a file format can do.

    name: libav's.
    reorders: stores decoding times below zero, which B-frames need to keep their own times.
    rotates: stores a rotation for display.
    """

    name: str
    codec: str = "libx264"
    reorders: bool = False
    rotates: bool = False


_CONTAINERS = {
    ".mp4": _Container("mp4", reorders=True, rotates=True),
    ".m4v": _Container("mp4", reorders=True, rotates=True),
    ".mov": _Container("mov", reorders=True, rotates=True),
    ".mkv": _Container("matroska", reorders=True, rotates=True),
    ".webm": _Container("webm", "libvpx-vp9", reorders=True, rotates=True),
    ".ts": _Container("mpegts"),
    ".avi": _Container("avi"),
    ".flv": _Container("flv"),
}

_CODECS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1", "prores_ks", "h264_nvenc")
"""Those that error messages propose."""

_CRF = {"h264": 18, "hevc": 24, "vp9": 30, "av1": 30}
_DEFAULTS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "veryfast", "x265-params": "log-level=error"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "7", "row-mt": "1"},
    "libsvtav1": {"preset": "10"},
}
_TS_CODECS = {"h264", "hevc", "mpeg2video", "mpeg4"} | {"aac", "mp2", "mp3", "ac3", "eac3", "opus"}
_EVEN_CHROMA = ("h264", "hevc")
"""Codecs that cannot crop half a chroma sample: subsampled, they need even sizes."""

_LIMITED_ONLY = ("prores", "mpeg4", "mpeg2video")
"""Codecs that cannot tell that luma spans all code values: players take it for 16..235."""

_TELLING_ASPECT = ("h264", "hevc", "mpeg4", "mpeg2video")
"""Codecs that store the pixel aspect themselves; PyAV cannot hand it to Matroska."""

_STALE_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder")
"""Metadata about the source's file and not about its content."""

_GRAY = Color(full_range=True)
_REFUSALS = (errno.EINVAL, errno.ENOSYS)
_DAY = 86_400  # seconds
_MAX_TIMESCALE = (1 << 31) - 1


class Writer:
    """A video file being written; frames go in by ``write``, in the order they are shown.

    path: the file; it appears, replacing what was there, when ``close`` has completed it.
    like: the video whose size, rate, tags, rotation and time base the file takes over.
    codec: an encoder of libav; by default libx264, or libvpx-vp9 for .webm.
    crf: the encoder's quality, lower is better; by default 18 for H.264, 24 HEVC, 30 VP9 and AV1.
    preset: the encoder's speed; by default "veryfast".
    audio: make room for the audio streams of ``like``; their packets come by ``mux``.
    gray: a full-range gray video (an alpha); pictures come by ``write_gray``.

    The pixel format is that of ``like`` or the nearest the codec knows.  H.264 and HEVC cannot
    subsample the chroma of odd sizes, so those are encoded as 4:4:4 (or 4:2:2) at their own size.
    Timestamps stay exact in .mp4 and .mov; .mkv, .webm and .flv round them to milliseconds, .ts to
    1/90000 s and .avi to the frame rate.  Audio that starts before zero, which .ts and .flv cannot
    express, moves there to zero together with the pictures.

    As a context manager it closes itself; leaving by an exception abandons the file.

    Raises:
        UsageError: a codec, option, file extension or combination that cannot be.
        OutputError: the file cannot be written, or the encoder cannot start.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: Reader,
        *,
        codec: str | None = None,
        crf: int | None = None,
        preset: str | None = None,
        audio: bool = False,
        gray: bool = False,
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self._like = like
        self._kind = _container_of(self.path)
        self._codec = _find_codec(codec or self._kind.codec)
        self._format = _encoder_format(self._codec, like, gray)
        self._color = _encoder_color(self._codec, _GRAY if gray else like.color)
        self._time_base = self._choose_time_base()
        self._scaler = VideoReformatter()
        self._lock = threading.Lock()
        self._durations: dict[int, int] = {}
        self._last_pts: int | None = None
        self._open = self._joins = False
        options = _encoder_options(self._codec, crf, preset)
        self._container = self._open_container()
        self._video = self._add_video(options)
        self._audio = {s.index: self._add_audio(s) for s in like.audio_streams if audio}
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def write(self, frame: Frame) -> None:
        """Encode one frame; like every frame, it does not change afterwards."""
        self._encode(self._picture(frame.planes, frame.format.name, frame.color), frame)

    def write_gray(self, plane: NDArray[np.uint8], frame: Frame) -> None:
        """Encode one picture of a gray video at the time of ``frame``; plane: [height, width]."""
        self._encode(self._picture((plane,), "gray", _GRAY), frame)

    def mux(self, packet: Packet) -> None:
        """Copy one audio packet of ``like`` into the file.

        May be called from another thread than ``write``.  The packet belongs to the writer then.
        """
        packet.stream = self._audio[packet.stream_index]
        self._mux([packet])

    def write_encoded(self, packet: Packet) -> None:
        """Copy one video packet that a writer with the same settings has encoded.

        For a file that is put together from parts: nothing may come by ``write`` then.
        """
        self._joins, self._last_pts = True, packet.pts
        packet.stream = self._video
        self._mux([packet])

    def close(self) -> None:
        """Complete the file and give it its name; a file without a frame is abandoned instead."""
        if not self._open or self._last_pts is None:
            self.abandon()
            return
        try:
            self._flush()
            self.part.replace(self.path)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def abandon(self) -> None:
        """Make what was written playable, as PATH.part; leave nothing if that is no frame."""
        if not self._open:
            return
        with contextlib.suppress(av.FFmpegError, OSError):
            self._flush()
        if self._last_pts is None:
            self.part.unlink(missing_ok=True)

    def _choose_time_base(self) -> Fraction:
        if self._kind.name == "avi" and self._like.frame_rate:
            return 1 / self._like.frame_rate
        return self._like.time_base

    def _open_container(self) -> OutputContainer:
        if self.path.is_dir():
            raise OutputError(f"{self.path}: is a directory; give a file name")
        if not self.path.parent.is_dir():
            raise OutputError(f"{self.path}: its directory does not exist; make it first")
        options = self._muxer_options()
        container = av.open(
            f"file:{self.part}", "w", format=self._kind.name, container_options=options
        )
        tags = self._like.metadata.items()
        container.metadata.update({k: v for k, v in tags if k.lower() not in _STALE_TAGS})
        return container

    def _muxer_options(self) -> dict[str, str]:
        """What keeps timestamps and start offsets exact.

        No "faststart": completing the file would mean to write it twice, also after Ctrl-C.
        """
        if self._kind.name in ("matroska", "webm", "avi"):
            return {"avoid_negative_ts": "disabled"}  # audio may well start before zero
        if self._kind.name not in ("mp4", "mov"):
            return {}
        video = self._time_base.denominator
        audio = (s.time_base.denominator for s in self._like.audio_streams if s.time_base)
        movie = lcm(video, *audio)
        return {
            "video_track_timescale": str(video),
            "movie_timescale": str(movie if movie <= _MAX_TIMESCALE else video),
        }

    def _add_video(self, options: dict[str, str]) -> av.VideoStream:
        self._check_container()
        like = self._like
        stream = self._container.add_stream(self._codec.name, like.frame_rate, options)
        assert isinstance(stream, av.VideoStream)
        stream.time_base = self._time_base
        context = stream.codec_context
        context.time_base = self._time_base
        context.width, context.height, context.pix_fmt = like.width, like.height, self._format
        context.thread_type = ThreadType.AUTO  # x264 would cut frames into slices otherwise
        if not self._kind.reorders:
            context.max_b_frames = 0
        if self._codec.canonical_name == "hevc" and self._kind.name in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # the only kind QuickTime plays
        _tag(context, self._color)
        self._set_shape(stream)
        return stream

    def _check_container(self) -> None:
        able = _codecs_of(self._container)
        if self._codec.canonical_name not in able:
            names = [name for name in _CODECS if _find_codec(name).canonical_name in able]
            raise UsageError(
                f"{self.path}: {self.path.suffix} cannot store {self._codec.name}; "
                f"choose one of {', '.join(names)} or another file extension"
            )

    def _set_shape(self, stream: av.VideoStream) -> None:
        kind, codec, like = self._kind.name, self._codec.canonical_name, self._like
        if like.aspect != 1 and kind not in ("mp4", "mov") and codec not in _TELLING_ASPECT:
            raise UsageError(
                f"{self.path}: {self.path.suffix} with {self._codec.name} cannot store the pixel "
                f"aspect {like.aspect} of this video; write .mp4"
            )
        stream.codec_context.sample_aspect_ratio = like.aspect
        if not like.rotation:
            return
        if not self._kind.rotates:
            raise UsageError(
                f"{self.path}: {self.path.suffix} cannot store the rotation of this video; "
                "write .mp4, .mov or .mkv"
            )
        stream.set_display_rotation(-like.rotation)  # libav's is counterclockwise

    def _add_audio(self, template: av.AudioStream) -> av.AudioStream:
        if template.codec_context.codec.canonical_name not in _codecs_of(self._container):
            raise self._no_audio(template)
        stream = self._container.add_stream_from_template(template)
        stream.metadata.update(template.metadata)
        return stream

    def _no_audio(self, *templates: av.AudioStream) -> UsageError:
        names = " and ".join(stream.codec_context.codec.canonical_name for stream in templates)
        return UsageError(
            f"{self.path}: {self.path.suffix} cannot store {names} audio; "
            "write .mkv or leave the audio out (--no-audio)"
        )

    def _start(self) -> None:
        """Open the encoder, then the file."""
        like = self._like
        os.environ.setdefault("SVT_LOG", "1")  # libsvtav1 greets on standard error otherwise
        try:
            self._video.codec_context.open()
        except av.FFmpegError as error:
            raise OutputError(
                f"{self.path}: {self._codec.name} cannot encode {like.width}x{like.height} "
                f"{self._format} ({error.strerror}); choose another codec"
            ) from error
        try:
            self._container.start_encoding()
        except (av.FFmpegError, OSError) as error:
            with contextlib.suppress(OSError):
                self.part.unlink()
            if self._audio and error.errno in _REFUSALS:  # some muxers look only now
                raise self._no_audio(*self._audio.values()) from error
            raise self._failure(error) from error
        self._open = True

    def _picture(self, planes: tuple[Plane, ...], format: str, color: Color) -> av.VideoFrame:
        height, width = planes[0].shape
        if (width, height) != (self._like.width, self._like.height):
            raise UsageError(
                f"{self.path}: got a frame of {width}x{height}, "
                f"but the video is {self._like.width}x{self._like.height}"
            )
        picture = new_picture(planes, format)
        if (format, color.full_range) == (self._format, self._color.full_range):
            return picture
        return self._scaler.reformat(
            picture,
            format=self._format,
            src_color_range=range_of(color),
            dst_color_range=range_of(self._color),
        )

    def _encode(self, picture: av.VideoFrame, frame: Frame) -> None:
        picture.time_base, picture.pts = self._time_base, self._pts(frame)
        duration = round(frame.duration * frame.time_base / self._time_base)
        self._durations[picture.pts] = duration
        try:
            packets = self._video.encode(picture)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        self._last_pts = picture.pts
        self._mux(self._timed(packets))

    def _pts(self, frame: Frame) -> int:
        """The frame's time in the stream's units; encoders want it to increase."""
        pts = round(frame.time / self._time_base)
        return pts if self._last_pts is None else max(pts, self._last_pts + 1)

    def _timed(self, packets: list[Packet]) -> list[Packet]:
        """The packets with the durations of their frames, which not every encoder hands on."""
        for packet in packets:
            shown, decoded = packet.pts or 0, packet.dts or 0
            packet.duration = self._durations.pop(shown, 0)
            if not 0 <= (shown - decoded) * self._time_base <= _DAY:
                packet.dts = shown  # libx265 leaves it undefined in clips of one or two frames
        return packets

    def _mux(self, packets: list[Packet]) -> None:
        try:
            with self._lock:
                self._container.mux(packets)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def _flush(self) -> None:
        self._open = False
        try:
            with self._lock:
                if not self._joins:
                    self._container.mux(self._timed(self._video.encode(None)))
        finally:
            self._container.close()

    def _failure(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or error
        return OutputError(f"{self.path}: cannot be written: {reason}")


def extensions() -> tuple[str, ...]:
    """Those of the files that a ``Writer`` makes, with their dots."""
    return tuple(_CONTAINERS)


def _container_of(path: Path) -> _Container:
    try:
        return _CONTAINERS[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{path}: unknown kind of video file; use one of {', '.join(_CONTAINERS)}"
        ) from None


def _find_codec(name: str) -> av.Codec:
    try:
        codec = av.Codec(name, "w")
    except UnknownCodecError:
        codec = None
    if codec is None or codec.type != "video":
        raise UsageError(f"unknown video codec {name!r}; use one of {', '.join(_CODECS)}")
    return codec


def _codecs_of(container: OutputContainer) -> set[str]:
    """The canonical names of what a container can store; libav does not know it of MPEG-TS."""
    if container.format.name == "mpegts":
        return _TS_CODECS
    able = container.supported_codecs
    if container.format.name == "mp4":  # PCM fails at the very end there, and few players know it
        return {name for name in able if not name.startswith("pcm_")}
    return able


def _encoder_options(codec: av.Codec, crf: int | None, preset: str | None) -> dict[str, str]:
    known = {option.name for option in codec.create("video").supported_options.private}
    options = dict(_DEFAULTS.get(codec.name, {}))
    if "crf" in known and codec.canonical_name in _CRF:
        options["crf"] = str(_CRF[codec.canonical_name])
    for name, value in (("crf", crf), ("preset", preset)):
        if value is not None and name not in known:
            raise UsageError(f"codec {codec.name} has no {name}; leave --{name} out")
        if value is not None:
            options[name] = str(value)
    return options


def _encoder_format(codec: av.Codec, like: Reader, gray: bool) -> str:
    """The codec's pixel format nearest to the frames'."""
    able = [format.name for format in codec.video_formats or () if format.name != "cuda"]
    if codec.canonical_name in _EVEN_CHROMA:
        able = [name for name in able if _splits_evenly(name, like.width, like.height)]
    wanted = "gray" if gray else like.format.name
    if wanted in able:
        return wanted
    best, _ = find_best_pix_fmt_of_list(able, "yuv420p" if gray else wanted)
    return best.name if best else wanted


def _encoder_color(codec: av.Codec, color: Color) -> Color:
    full_range = color.full_range and codec.canonical_name not in _LIMITED_ONLY
    return color._replace(full_range=full_range)


def _splits_evenly(name: str, width: int, height: int) -> bool:
    """Whether no chroma sample of the format reaches over the picture's edge."""
    format = av.VideoFormat(name, 2, 2)
    halves = format.chroma_width() == 1 and width % 2, format.chroma_height() == 1 and height % 2
    return not any(halves)


def _tag(context: VideoCodecContext, color: Color) -> None:
    context.colorspace, context.color_primaries = color.matrix, color.primaries
    context.color_trc = color.transfer
    context.color_range = range_of(color)
