"""The video writer: encodes Frames into a file with the source's timestamps, tags and audio.

An unfinished file is called PATH.part, so that PATH is always complete.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import av
import numpy as np
from av.codec.context import ThreadType
from av.codec.hwaccel import HWAccel
from av.container import OutputContainer
from av.subtitles.stream import SubtitleStream
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from fusematte.engine.cuda.device_pictures import PAIRED_NAMES, DeviceFrame
from fusematte.engine.errors import OutputError, UsageError, reason_of
from fusematte.engine.frame import PIXEL_FORMATS, UNTOLD, Color, Frame, Plane, VideoInfo
from fusematte.engine.media.animation import LAYOUTS, LOOPING, Animation
from fusematte.engine.media.audio import USUAL, AudioConverter, AudioMode, audio_mode
from fusematte.engine.media.av_frames import new_picture, planes_of, range_of, to_depth
from fusematte.engine.media.files import Unfinished, check_name, part_of
from fusematte.engine.media.formats import (
    CODECS,
    CONTAINERS,
    PIPED,
    Content,
    Encoding,
    Picture,
    codec_of,
    codecs_of,
    container_of,
    encoder_color,
    encoder_options,
    find_codec,
    pixel_format_of,
)
from fusematte.engine.media.hdr_metadata import mastering_options
from fusematte.engine.media.notices import CollectedHere
from fusematte.engine.media.reserved_file import OutFile
from fusematte.engine.media.sources import is_stdin
from fusematte.engine.media.svt_av1 import tamed

Packet: TypeAlias = "av.Packet[Any]"

_Template = TypeVar("_Template", av.AudioStream, SubtitleStream)

log = logging.getLogger(__name__)
log.addFilter(CollectedHere())


_TELLING_ASPECT = ("h264", "hevc", "mpeg4", "mpeg2video")
"""Codecs that store the pixel aspect ratio themselves; PyAV cannot pass it to Matroska."""

_STALE_TAGS = (
    "major_brand", "minor_version", "compatible_brands", "encoder", "vendor_id", "duration",
    "rotate", "alpha_mode", "bps", "number_of_frames", "number_of_bytes",
    "_statistics_writing_app", "_statistics_writing_date_utc", "_statistics_tags",
)  # fmt: skip
"""Metadata about the source file, not about its content."""

_CHAPTERED = ("mp4", "mov", "matroska", "webm")

_GATHERING = ("libwebp_anim",)
"""Encoders that put all frames into one packet."""

_HIDING = ("mp4", "mov")
"""Containers whose edit lists can hide frames."""

_COUNTING = ("avi", "yuv4mpegpipe", "rawvideo")
"""Containers without timestamps."""

STDOUT, PIPE = "-", "pipe:"
"""Names of standard output: ``-`` takes the container of standard input, or Matroska; ``pipe:EXT``
names the container."""

_GRAY = Color(full_range=True)
_REFUSALS = (errno.EINVAL, errno.ENOSYS)
_DAY = 86_400  # seconds
_MAX_TIMESCALE = (1 << 31) - 1
_BUFFER = 1 << 18
"""Size of the write buffer in bytes."""


class Writer(Unfinished):
    """Writes a video file; pass frames to ``write``, in presentation order.

    path: the file; ``close`` completes it and replaces an existing one.
    like: the video whose size, rate, tags, rotation and time base the file takes over: a Reader or
    its ``info``.
    codec: a libav encoder; by default libx264, or libvpx-vp9 for .webm.
    crf: constant quality, lower is better; by default 18 for H.264, 24 HEVC, 30 VP9 and AV1.
    preset: encoder preset; by default "veryfast".
    pixel_format: libav's name.
    bitrate: bits per second, instead of ``crf``.
    audio: add the audio streams of ``like``, whose packets are passed to ``mux``: "convert" (or
    True) copies what the container can hold and converts the rest, "copy" raises an error for it.
    subtitles: add subtitle streams, and attachments such as fonts.
    hardware: hardware encoder that reads frames from its own memory; the codec must be one of its.
    content: "color"; "gray", a full-range grayscale video (an alpha), written by ``write_gray``; or
    "rgba", colour with straight alpha: ProRes 4444 in .mov, VP9 in .webm, FFV1 in .mkv.

    ``-`` is standard output, in Matroska, or in Y4M, NUT or raw if standard input is that;
    ``pipe:y4m``, ``pipe:webm`` and others name the container.

    The pixel format is that of ``like`` or the nearest one of the codec.  H.264 and HEVC cannot
    subsample the chroma of odd sizes, so these are encoded as 4:4:4 (or 4:2:2).  Timestamps stay
    exact in .mp4 and .mov; .mkv, .webm and .flv round them to milliseconds, .ts to 1/90000 s and
    .avi to the frame rate.  In .ts and .flv, which have no negative timestamps, audio that starts
    before zero is moved to zero together with the video.  A part of a video (``like.origin``)
    starts at zero.  Chapters and tags are copied.  What a container cannot store is left out with a
    warning, except audio: that is an error.

    Raises:
        UsageError: a codec, an option, a file extension or a combination is invalid.
        OutputError: the file cannot be written, or the encoder cannot start.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: VideoInfo,
        *,
        codec: str | None = None,
        crf: int | None = None,
        preset: str | None = None,
        pixel_format: str | None = None,
        bitrate: int | None = None,
        audio: AudioMode | bool = False,
        subtitles: bool = False,
        content: Content = "color",
        hardware: HWAccel | None = None,
    ) -> None:
        self.name = os.fspath(path)
        self._to_stdout = is_stdout(self.name)
        if not self._to_stdout:
            check_name(Path(path))
        # The target of a link is replaced, not the link.
        self.path = Path(path).resolve() if Path(path).is_symlink() else Path(path)
        self.part = part_of(self.path)
        self._streams = self._to_stdout or is_special(self.path)
        self._like, self.content, self._hardware = like, content, hardware
        encoding = Encoding(
            codec=codec, pixel_format=pixel_format, bitrate=bitrate, crf=crf, preset=preset
        )
        self._kind = container_of(self.name, self._suffix())
        self._codec = codec_of(self.name, self._kind, content, encoding)
        picture = Picture(like.format, like.width, like.height, like.color)
        self._format = (
            PAIRED_NAMES[like.format.name]
            if hardware is not None
            else pixel_format_of(self.name, self._codec, picture, content, pixel_format)
        )
        self._color = encoder_color(self._codec, _GRAY if content == "gray" else like.color)
        self._time_base = self._choose_time_base()
        self._scaler = VideoReformatter()
        self._animation = Animation(self._codec.name) if self._codec.name in LAYOUTS else None
        self._lock = threading.Lock()
        self._durations: dict[int, int] = {}
        self._last_pts: int | None = None
        self._open = self._joins = False
        self._frames = self._packets = 0
        self._file = None if self._streams else OutFile(self.part, like.frame_count or 0)
        options = self._with_mastering(encoder_options(self._codec, encoding))
        self._container = self._open_container()
        self._video = self._add_video(options, bitrate)
        self._converters: dict[int, AudioConverter] = {}
        self._audio_mode = audio_mode(audio)
        self._audio = {sound.index: self._add_audio(sound) for sound in self._wanted_audio()}
        self._subtitles = self._add_subtitles() if subtitles else {}
        self._add_chapters()
        self._start()

    def write(self, frame: Frame) -> None:
        """Encodes one frame, which must not be modified afterwards."""
        if isinstance(frame, DeviceFrame):
            self._encode(frame.picture, frame)
        elif self._animation is not None:
            self._encode(self._animation.color(frame), frame)
        elif self.content == "rgba":
            self._encode(self._transparent_picture(frame), frame)
        else:
            self._encode(self._picture(frame.planes, frame.format.name, frame.color), frame)

    def write_gray(self, plane: Plane, frame: Frame) -> None:
        """Encodes one picture of a gray video at the time of ``frame``.

        plane: [height, width], full range: uint8, or uint16 of 10 bits.
        """
        if self._animation is not None:
            self._encode(self._animation.gray(plane), frame)
            return
        format = "gray" if plane.dtype == np.uint8 else "gray10le"
        self._encode(self._picture((plane,), format, _GRAY), frame)

    def mux(self, packet: Packet) -> None:
        """Copies an audio or subtitle packet of ``like``; packets of other streams are dropped.

        It may be called from another thread than ``write``.  The packet is modified.
        """
        stream = self._audio.get(packet.stream_index) or self._subtitles.get(packet.stream_index)
        if stream is None:
            return
        shift = round(self._like.origin / packet.time_base)
        converter = self._converters.get(packet.stream_index)
        if converter is not None:
            self._mux(list(converter(packet, shift)))
            return
        if shift and packet.pts is not None:
            packet.pts -= shift
        if shift and packet.dts is not None:
            packet.dts -= shift
        packet.stream = stream
        self._mux([packet])

    @property
    def frames(self) -> int:
        """Number of frames written so far."""
        return self._frames

    def write_encoded(self, packet: Packet) -> None:
        """Copies a video packet that a writer with the same settings has encoded.

        It is for joining segments, and cannot be combined with ``write``.
        """
        self._joins, self._last_pts = True, packet.pts
        self._frames += 1
        self._packets += 1
        packet.stream = self._video
        self._mux([packet])

    def close(self) -> None:
        """Completes the file and gives it its name; a file without frames is abandoned instead.

        Raises:
            OutputError: it cannot be written, or frames are missing in it; it stays PATH.part.
        """
        if not self._open or self._last_pts is None:
            self.abandon()
            return
        try:
            self._flush()
            self._check_count()
            if self._file is not None:
                self._file.finish(self.path)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        finally:
            self._release()

    def abandon(self) -> None:
        """Makes the unfinished file playable as PATH.part; deletes it if it has no frame."""
        if not self._open:
            return
        with contextlib.suppress(av.FFmpegError, OSError):
            self._flush()
        if self._last_pts is None and self._file is not None:
            self._file.discard()
        self._release()

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()

    def _check_count(self) -> None:
        """Checks that no frame was lost in the encoder or hidden by the container."""
        if self._codec.name in _GATHERING:
            return
        count = self._packets
        if self._file is not None and self._kind.name in _HIDING:
            count = min(count, _shown(self.part))
        if count < self._frames:
            raise OutputError.at(
                self.name,
                f"contains only {count} of {self._frames} frames and is left as {self.part.name}",
                remedy="choose another codec or container",
            )

    def _suffix(self) -> str:
        """The file extension, or that of standard output's container."""
        if not self._to_stdout:
            return self.path.suffix
        if self.name != STDOUT:
            return f".{self.name.removeprefix(PIPE)}"
        piped = is_stdin(self._like.name)
        return PIPED.get(self._like.container_name, ".mkv") if piped else ".mkv"

    def _with_mastering(self, options: dict[str, str]) -> dict[str, str]:
        """The encoder's options with the mastering metadata of ``like``."""
        mastering = self._like.mastering
        if self.content == "gray" or mastering == UNTOLD:
            return options
        added = mastering_options(self._codec.name, mastering)
        if added is None:
            log.warning(
                "%s: %s cannot store HDR mastering metadata; libx265, libx264 and libsvtav1 can",
                self.name, self._codec.name,
            )  # fmt: skip
            return options
        return options | {
            name: ":".join(filter(None, (options.get(name), value)))
            for name, value in added.items()
        }

    def _choose_time_base(self) -> Fraction:
        if self._kind.name in _COUNTING and self._like.frame_rate:
            return 1 / self._like.frame_rate
        return self._like.time_base

    def _open_container(self) -> OutputContainer:
        container = av.open(
            self._target(),
            "w",
            format=self._kind.name,
            container_options=self._muxer_options(),
            buffer_size=_BUFFER,
        )
        container.metadata.update(_lasting(self._like.metadata))
        return container

    def _target(self) -> str | OutFile:
        """The target that libav writes to."""
        if self._file is None:
            if not self._kind.streams:
                able = ", ".join(f"{PIPE}{k[1:]}" for k, kind in CONTAINERS.items() if kind.streams)
                raise UsageError.at(
                    self.name, "cannot be written to a pipe", remedy=f"use one of {able}"
                )
            return "pipe:1" if self._to_stdout else f"file:{self.path}"
        if self.path.is_dir():
            raise OutputError.at(self.path, "is a folder", remedy="give a file name")
        if not self.path.parent.is_dir():
            raise OutputError.at(self.path, "its folder does not exist", remedy="create it first")
        return self._file

    def _muxer_options(self) -> dict[str, str]:
        """Options that keep timestamps and start offsets exact.

        Not "faststart": it writes the file a second time at the end, even after Ctrl-C.
        """
        if self._kind.name == "yuv4mpegpipe":
            return {"strict": "-1"}  # its 10-bit layouts are an extension
        if self._kind.name in ("matroska", "webm", "avi", "nut"):
            return {"avoid_negative_ts": "disabled"}  # audio may start before zero
        if self._kind.name not in ("mp4", "mov"):
            return LOOPING.get(self._kind.name, {})
        video = self._time_base.denominator
        audio = (s.time_base.denominator for s in self._like.audio_streams if s.time_base)
        movie = lcm(video, *audio)
        return {
            "video_track_timescale": str(video),
            "movie_timescale": str(movie if movie <= _MAX_TIMESCALE else video),
        }

    def _add_video(self, options: dict[str, str], bitrate: int | None) -> av.VideoStream:
        self._check_container()
        like = self._like
        try:
            stream = self._container.add_stream(
                self._codec.name, like.frame_rate, options, hwaccel=self._hardware
            )
        except av.FFmpegError as error:
            raise OutputError.at(
                self.name,
                f"{self._codec.name} cannot be used here ({reason_of(error)})",
                option="codec",
                remedy="choose another codec",
            ) from error
        assert isinstance(stream, av.VideoStream)
        stream.time_base = self._time_base
        context = stream.codec_context
        context.time_base = self._time_base
        context.width, context.height, context.pix_fmt = like.width, like.height, self._format
        context.thread_type = ThreadType.AUTO  # x264 would cut frames into slices otherwise
        if bitrate is not None:
            context.bit_rate = bitrate
        if not self._kind.reorders:
            context.max_b_frames = 0
        if self._codec.canonical_name == "hevc" and self._kind.name in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # the only kind QuickTime plays
        _tag(context, self._color)
        stream.metadata.update(_lasting(like.video_metadata))
        self._set_shape(stream)
        return stream

    def _check_container(self) -> None:
        able = codecs_of(self._container)
        if self._codec.canonical_name not in able:
            names = [name for name in CODECS if find_codec(name).canonical_name in able]
            raise UsageError.at(
                self.name,
                f"{self._suffix()} cannot store {self._codec.name}",
                option="codec",
                remedy=f"choose one of {', '.join(names)} or another file extension",
            )

    def _set_shape(self, stream: av.VideoStream) -> None:
        kind, codec, like = self._kind.name, self._codec.canonical_name, self._like
        if like.aspect != 1 and kind not in ("mp4", "mov") and codec not in _TELLING_ASPECT:
            raise UsageError.at(
                self.name,
                f"{self._suffix()} with {self._codec.name} cannot store the pixel "
                f"aspect {like.aspect} of this video",
                remedy="write .mov",
            )
        stream.codec_context.sample_aspect_ratio = like.aspect
        if not like.rotation:
            return
        if not self._kind.rotates:
            raise UsageError.at(
                self.name,
                f"{self._suffix()} cannot store the rotation of this video",
                remedy="write .mp4, .mov or .mkv",
            )
        stream.set_display_rotation(-like.rotation)  # libav's is counterclockwise

    def _wanted_audio(self) -> tuple[av.AudioStream, ...]:
        streams = self._like.audio_streams if self._audio_mode != "none" else ()
        if streams and self._kind.silent:
            log.warning("%s: %s cannot hold audio; it is left out", self.name, self._suffix())
            return ()
        return streams

    def _add_audio(self, template: av.AudioStream) -> av.AudioStream:
        codec = template.codec_context.codec.canonical_name
        if codec in codecs_of(self._container):
            return self._add_copy(template)
        usual = USUAL.get(self._kind.name)
        if self._audio_mode == "copy" or usual is None:
            raise self._no_audio(template)
        log.warning(
            "%s: %s cannot store %s audio; it is converted to %s",
            self.name, self._suffix(), codec, usual.removeprefix("lib"),
        )  # fmt: skip
        converter = AudioConverter(self._container, template, usual)
        converter.stream.metadata.update(_lasting(template.metadata))
        converter.stream.disposition = template.disposition
        self._converters[template.index] = converter
        return converter.stream

    def _add_copy(self, template: _Template) -> _Template:
        stream = self._container.add_stream_from_template(template)
        stream.metadata.update(_lasting(template.metadata))
        stream.disposition = template.disposition
        return stream

    def _add_subtitles(self) -> dict[int, SubtitleStream]:
        """Adds subtitle streams; a warning names those that the container cannot store."""
        able, streams = codecs_of(self._container), {}
        refused: list[str] = list(self._like.left_out)
        for template in self._like.subtitle_streams:
            codec = template.codec_context.codec.canonical_name
            if codec in able:
                streams[template.index] = self._add_copy(template)
            else:
                refused.append(f"{codec} subtitles")
        if self._kind.name == "matroska":
            for file in self._like.attachments:
                tags = {key.lower(): value for key, value in file.metadata.items()}
                name = tags.get("filename", "attachment")
                self._container.add_attachment(
                    name, file.mimetype or "application/octet-stream", file.data
                )
        elif self._like.attachments:
            refused.append("attachments")
        if refused:
            log.warning("%s: left out: %s", self.name, ", ".join(sorted(refused)))
        return streams

    def _add_chapters(self) -> None:
        chapters = self._like.chapters
        if not chapters:
            return
        if self._kind.name not in _CHAPTERED:
            log.warning("%s: %s has no chapters; they are left out", self.name, self._kind.name)
            return
        self._container.set_chapters(
            [
                {
                    "id": number,
                    "start": max(0, round((chapter.start - self._like.origin) * 1000)),
                    "end": round((chapter.end - self._like.origin) * 1000),
                    "time_base": Fraction(1, 1000),
                    "metadata": chapter.metadata,
                }
                for number, chapter in enumerate(chapters, start=1)
            ]
        )

    def _no_audio(self, *templates: av.AudioStream) -> UsageError:
        names = " and ".join(stream.codec_context.codec.canonical_name for stream in templates)
        return UsageError.at(
            self.name,
            f"{self._suffix()} cannot store {names} audio",
            option="audio",
            remedy="write .mkv, convert it (--audio convert) or leave it out (--audio none)",
        )

    def _start(self) -> None:
        """Opens the encoder, then the file."""
        like = self._like
        try:
            with tamed():
                self._video.codec_context.open()
        except av.FFmpegError as error:
            if self._codec.name == "libx265" and self.content == "rgba":
                raise OutputError.at(
                    self.name,
                    "libx265 in this build of av has no alpha (one made with ENABLE_ALPHA has)",
                    remedy="write .mov with prores_ks",
                    option="codec",
                ) from error
            raise OutputError.at(
                self.name,
                f"{self._codec.name} cannot encode {like.width}x{like.height} "
                f"{self._format} ({reason_of(error)})",
                option="codec",
                remedy="choose another codec",
            ) from error
        try:
            self._container.start_encoding()
        except (av.FFmpegError, OSError) as error:
            if self._file is not None:
                self._file.discard()
            if self._audio and error.errno in _REFUSALS:  # some muxers only check now
                raise self._no_audio(*self._audio.values()) from error
            raise self._failure(error) from error
        self._open = True

    def _picture(
        self, planes: tuple[Plane, ...], format: str, color: Color, target: str | None = None
    ) -> av.VideoFrame:
        height, width = planes[0].shape
        if (width, height) != (self._like.width, self._like.height):
            raise UsageError.at(
                self.name,
                f"got a frame of {width}x{height}, "
                f"but the video is {self._like.width}x{self._like.height}",
            )
        picture, target = new_picture(planes, format), target or self._format
        if (format, color.full_range) == (target, self._color.full_range):
            return picture
        return self._scaler.reformat(
            picture,
            format=target,
            src_color_range=range_of(color),
            dst_color_range=range_of(self._color),
        )

    def _transparent_picture(self, frame: Frame) -> av.VideoFrame:
        """Converts colours and alpha separately: libav would scale 255 to 1020 of 1023."""
        opaque = av.VideoFormat(self._format.replace("yuva", "yuv"), 2, 2)
        depth = opaque.components[0].bits
        colors = self._picture(frame.planes, frame.format.name, frame.color, opaque.name)
        alpha = frame.alpha
        if alpha is None:
            alpha = np.full(frame.planes[0].shape, frame.format.peak, frame.format.dtype)
        layout = PIXEL_FORMATS[opaque.name]
        planes, _ = planes_of(colors, layout, self._color, self._scaler)
        return new_picture((*planes, to_depth(alpha, frame.format.bits, depth)), self._format)

    def _encode(self, picture: av.VideoFrame, frame: Frame) -> None:
        picture.time_base, picture.pts = self._time_base, self._pts(frame)
        # ProRes takes the tags of each picture, not those of the stream.
        picture.colorspace, picture.color_range = self._color.matrix, range_of(self._color)
        picture.color_primaries, picture.color_trc = self._color.primaries, self._color.transfer
        duration = round(frame.duration * frame.time_base / self._time_base)
        self._durations[picture.pts] = duration
        try:
            packets = self._video.encode(picture)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        self._last_pts = picture.pts
        self._frames += 1
        self._mux(self._timed(packets))

    def _pts(self, frame: Frame) -> int:
        """The frame's time in the stream's units, strictly increasing for the encoder."""
        pts = round((frame.time - self._like.origin) / self._time_base)
        return pts if self._last_pts is None else max(pts, self._last_pts + 1)

    def _timed(self, packets: list[Packet]) -> list[Packet]:
        """The packets with the durations of their frames, which some encoders do not set."""
        self._packets += len(packets)
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
        if self._full is not None:
            raise self._failure(self._full) from self._full

    @property
    def _full(self) -> OSError | None:
        """The error of a full disk, after which the file must be finished."""
        return None if self._file is None else self._file.error

    def _flush(self) -> None:
        self._open = False
        try:
            with self._lock:
                if self._full is None:
                    for converter in self._converters.values():
                        self._container.mux(list(converter(None)))
                if not self._joins and self._full is None:
                    self._container.mux(self._timed(self._video.encode(None)))
        finally:
            self._container.close()

    def _failure(self, error: Exception) -> OutputError:
        return OutputError.at(self.name, f"cannot be written: {reason_of(error)}")


def _shown(path: Path) -> int:
    """Number of frames of a finished file that its edit list does not hide."""
    with av.open(f"file:{path}") as container:
        return sum(not entry.is_discard for entry in container.streams.video[0].index_entries)


def _tag(context: VideoCodecContext, color: Color) -> None:
    context.colorspace, context.color_primaries = color.matrix, color.primaries
    context.color_trc = color.transfer
    context.color_range = range_of(color)


def is_stdout(path: str | os.PathLike[str]) -> bool:
    """Whether an output is standard output."""
    name = os.fspath(path)
    return name == STDOUT or name.startswith(PIPE)


def is_special(path: Path) -> bool:
    """Whether an output is a pipe or a device, which is written directly, without ``.part``."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:  # a name that is too long
        return False


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    """The tags that describe the content."""
    return {key: value for key, value in metadata.items() if key.lower() not in _STALE_TAGS}
