"""The video reader: decodes a video into Frames in their own YUV planes.

Timestamps are the container's; audio and subtitle packets are passed on unchanged.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeAlias

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter

from fusematte.engine.cuda.device_pictures import DeviceFrame, is_on_device, stand_ins
from fusematte.engine.errors import InputError, TruncatedInputError, UsageError
from fusematte.engine.frame import CLOCK, Chapter, Frame, VideoInfo
from fusematte.engine.media.av_frames import (
    PNG,
    color_of,
    has_alpha,
    nearest_format,
    orientation_of,
    planes_of,
    side_data_of,
    upside_down,
)
from fusematte.engine.media.hdr_metadata import mastering_of
from fusematte.engine.media.heif import SEQUENCES
from fusematte.engine.media.notices import CollectedHere
from fusematte.engine.media.picture_header import check_size
from fusematte.engine.media.sources import MediaSource, is_url
from fusematte.engine.media.timeline import FrameClock, Timeline
from fusematte.engine.pixels.fit import fit_frame

log = logging.getLogger(__name__)
log.addFilter(CollectedHere())

Packet: TypeAlias = "av.Packet[Any]"

_TS_PACKETS = (188, 192, 204)  # bytes; a complete file has a whole number of one of these
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders for these codecs that read alpha, which libav's own decoders ignore."""

_LOST = {
    Type.A53_CC: "closed captions",
    Type.AFD: "active format description",
    Type.AMBIENT_VIEWING_ENVIRONMENT: "ambient viewing environment",
    Type.DOVI_METADATA: "Dolby Vision metadata",
    Type.DOVI_RPU_BUFFER: "Dolby Vision metadata",
    Type.DYNAMIC_HDR_PLUS: "HDR10+ metadata",
    Type.DYNAMIC_HDR_VIVID: "HDR Vivid metadata",
    Type.ICC_PROFILE: "ICC profile",
    Type.PANSCAN: "pan and scan",
    Type.S12M_TIMECODE: "timecodes of pictures",
    Type.SEI_UNREGISTERED: "user data",
    Type.SPHERICAL: "spherical projection",
    Type.STEREO3D: "stereo 3D tags",
}
"""Side data that is lost, because it cannot be passed to an encoder.

The other kinds are kept (orientation, mastering metadata), already applied (film grain), only there
on request, or there in every file and without a meaning (the timecodes of MPEG-2's groups)."""

_PROFILE, _HEAD = b"iCCP", 1 << 12
"""The chunk of a PNG's ICC profile, and the bytes within which it begins."""

_ENCODERS = (
    bytes.fromhex("dc45e9bde6d948b7962cd820d923eeef"),
    bytes.fromhex("2ca2de09b51747dbbb55a4fe7fc2fc4e"),
)
"""User data by x264 and x265 with their own settings, by its UUID."""

_SLACK = Fraction(1, 2)
"""Seconds by which a complete file may be shorter than its declared duration."""

_SEEK_MARGINS = (0, 2, 20)
"""Seconds to seek further back, in turn, if a seek ended too late."""

_BELIEVED = 1000
"""Frame rates above this are only used if the container has no lower one."""

_SKEW = 10
"""Maximum interleaving distance between streams, in seconds."""

_DECLARING = ("mov", "matroska", "avi", "flv", "asf")
"""Containers that declare their duration; for the others libav estimates it."""

_DESCRIBING = ("mov", "matroska", "flv")
"""Containers that describe AAC once, not in each packet."""


if TYPE_CHECKING:
    _Described = VideoInfo
else:

    class _Described:
        """The fields of ``info`` as attributes."""

        def __getattr__(self, name: str) -> object:
            if name == "info":  # before the first picture
                raise AttributeError(name)
            return getattr(self.info, name)


class Reader(_Described):
    """An open video; iterate over it for its frames.

    path: a file in any container that libav reads; a URL; a folder of pictures, or a pattern such
    as ``shot_%04d.png``; ``-`` for standard input, or ``pipe:1280x720:yuv420p:30`` for raw video.
    start, end: the part to read, in seconds from the beginning; frames keep their timestamps.
    frame_rate: frames per second of a picture sequence (25).
    hardware: hardware decoder for files; frames that it leaves in its own memory are
    ``DeviceFrame``s.

    info: properties of the video; its fields are attributes of the reader as well.
    jumps: whether timestamps read so far had discontinuities; seeking by time is unreliable then.
    damaged: whether data read so far could not be decoded.

    Mirrored videos are flipped back; the remaining rotation is ``info.rotation``.  If the frame
    size changes, pictures are scaled to the first one's size.  Interlaced video is deinterlaced,
    one frame per picture.  Timestamps that are missing, not increasing or discontinuous are
    rebuilt.  Each of these is logged as a warning.

    Raises:
        InputError: the file is missing, is not a video, or has no decodable picture.
        TruncatedInputError: while iterating, after the last good frame: the file is truncated or
            damaged.
        UsageError: nothing is left between ``start`` and ``end``, or ``frame_rate`` was given for
            an input that has its own.
    """

    info: VideoInfo

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        start: Fraction | float | None = None,
        end: Fraction | float | None = None,
        frame_rate: Fraction | None = None,
        hardware: HWAccel | None = None,
    ) -> None:
        _check_range(start, end)
        self._given = path, frame_rate, hardware
        self._scaler = VideoReformatter()
        self._frames_read = self._packets_read = 0
        self._end_of_packets, self.damaged = Fraction(0), False
        self._described, self._decoding, self._interlaced = False, True, False
        self._opening: int | None = None
        self._told_of_times = self._told_of_size = False
        self._told_of_data: set[str] = set()
        self._from: Fraction | None = None
        self._until: Fraction | None = None
        self._open()
        try:
            self._set_range(start, end)
            self._describe_stream()
            self._go_to_start()
            self.info = replace(self.info, origin=self._origin)
        except BaseException:
            self._leave()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return (item for item in self.items() if isinstance(item, Frame))

    def items(self) -> Iterator[Frame | Packet]:
        """Frames, and unchanged audio and subtitle packets, in file order.

        There is one pass over the file: items are not returned again.
        """
        while self._head:
            yield self._head.pop(0)
        yield from self._items

    def copies(self) -> Iterator[Packet]:
        """The audio and subtitle packets alone; the video is not decoded."""
        self._decoding = False
        return (item for item in self.items() if not isinstance(item, Frame))

    def video_packets(self) -> Iterator[Packet]:
        """The video packets, not decoded, from the beginning (or ``start``).

        Call ``seek`` to read frames afterwards.
        """
        self._items.close()
        self._head.clear()
        self._move(None)
        return (
            packet for packet in self._demux() if self._is_video(packet) and self._wants(packet)
        )

    def seek(self, pts: int) -> None:
        """Continues at ``pts`` (in units of the time base), or at the nearest key frame before it.

        Containers index by dts, some of them badly: if the first picture is too late, it seeks
        further back, in the end to the beginning.

        Raises:
            InputError: the input does not support seeking.
        """
        first = self._opening
        margins = () if first is not None and pts <= first else _SEEK_MARGINS
        for seconds in margins:
            self._restart(pts - math.ceil(seconds / self._time_base))
            if self._clock.first is not None and self._clock.first <= pts:
                return
        self._restart(None)

    @property
    def begin(self) -> Fraction:
        """The time of the whole video's beginning on the clock of its frames, in seconds."""
        return self._begin

    @property
    def jumps(self) -> bool:
        """See the class."""
        return self._timeline.breaks > 0 or self._timeline.damaged

    def _go_to_start(self) -> None:
        """Reads up to the first frame of the requested part."""
        self._items = self._read()
        self._origin = Fraction(0)
        if self._from is None:
            self._head = self._read_head()
            first = self._head[-1] if self._head else None
            if isinstance(first, Frame):
                self._opening = self._clock.first
                self._origin = min(self._origin, first.time)
            return
        self._head = []
        try:
            if self._jumps_somewhere():
                self._restart(None)
            else:
                self.seek(math.floor(self._from / self._time_base))
        except InputError:  # a stream without seeking
            self._restart(None)
        first = self._head[-1] if self._head else None
        if isinstance(first, Frame):
            self._from = self._origin = first.time
            self._head = [
                item for item in self._head if isinstance(item, Frame) or self._wants(item)
            ]

    def _jumps_somewhere(self) -> bool:
        """Whether a file has discontinuities, which would mislead a seek by time.

        Only broadcast containers allow them; all packets of these are read, without decoding.
        """
        if not self._timeline.may_jump or self._source.file is None:
            return False
        found = any(self.jumps for _ in self._demux())
        self._move(None)
        return found

    def _restart(self, pts: int | None) -> None:
        self._items.close()
        self._move(pts)
        self._items = self._read()
        self._head = self._read_head()

    def _move(self, pts: int | None) -> None:
        """Moves to the key frame at or before ``pts``; None is the beginning of the file."""
        self._begin_decoding(from_start=pts is None)
        if pts is None:  # a seek to the first timestamp misses the first frames of some containers
            self._leave()
            self._open()
            self._describe_stream()
            return
        try:
            self._container.seek(pts, stream=self._video)
        except av.FFmpegError as error:
            raise InputError.at(self._name, f"does not support seeking: {error}") from error
        self._decoder.flush_buffers()

    def _open(self) -> None:
        self._source = MediaSource(*self._given)
        self._name, self._container = self._source.name, self._source.container
        try:
            self._video = self._pick_stream()
            self._decoder = _decoder_of(self._video)
            self._codec = self._video.codec_context.name
        except BaseException:
            self._source.close()
            raise
        self._begin_decoding(from_start=True)

    def _begin_decoding(self, *, from_start: bool) -> None:
        self._from_start, self._reached = from_start, False
        self._clock, self._timeline = (
            FrameClock(),
            Timeline(self._container, joined=self._source.joined),
        )
        self._deinterlacer: Deinterlacer | None = None

    def close(self) -> None:
        """Closes the file; frames that were read stay valid."""
        self._items.close()
        self._head.clear()
        self._leave()

    def _leave(self) -> None:
        """Closes the container.  The decoder is flushed before: libav would wait forever for a
        thread that decodes a damaged picture."""
        with suppress(av.FFmpegError, AttributeError):  # there may be no decoder yet
            self._decoder.flush_buffers()
        self._source.close()

    def _pick_stream(self) -> av.VideoStream:
        streams = self._container.streams.video
        if not streams:
            raise InputError.at(self._name, "has no video stream", remedy="give a video file")
        video = self._container.streams.best("video") or streams[0]
        if self._container.metadata.get("major_brand", "").encode() in SEQUENCES:
            video = max(streams, key=lambda stream: stream.frames)  # the first is a still picture
        if not isinstance(video, av.VideoStream) or video.codec_context is None:
            raise InputError.at(
                self._name, "its video codec is unknown", remedy="convert the file first"
            )
        try:
            check_size(video.width, video.height)
        except OSError as error:
            raise InputError.at(self._name, str(error)) from error
        video.thread_type = "AUTO"
        return video

    def _set_range(self, start: Fraction | float | None, end: Fraction | float | None) -> None:
        """Sets the requested part in the file's own timestamps."""
        begin = Fraction(max(0, self._container.start_time or 0), av.time_base)
        if self._video.start_time is not None and self._video.time_base:
            begin = self._video.start_time * self._video.time_base  # audio may begin earlier
        # By its decimal text: 0.8 as a binary float is a little later than the frame at 4/5.
        self._from = None if start is None else begin + Fraction(str(start))
        self._until = None if end is None else begin + Fraction(str(end))
        self._begin = begin

    def _describe_stream(self) -> None:
        """Reads the container's properties; the others come with the first picture."""
        video, streams = self._video, self._container.streams
        audio = tuple(s for s in streams.audio if self._is_decodable(s))
        subtitles = tuple(s for s in streams.subtitles if s.codec_context)
        self._time_base = video.time_base or CLOCK
        self._frame_rate = _rate_of(video)
        self._has_audio = bool(audio)
        self._copied = {s.index for s in (*audio, *subtitles)}
        kept = {video.index, *self._copied, *(s.index for s in streams.attachments)}
        duration = self._kept_duration(self._stream_duration())
        self._frame_count = self._whole_count() or self._estimated_count(duration)
        self._told: dict[str, Any] = {
            "name": self._name,
            "container_name": self._container.format.name,
            "time_base": self._time_base,
            "frame_rate": self._frame_rate,
            "aspect": video.sample_aspect_ratio or Fraction(1),
            "duration": duration,
            "frame_count": self._frame_count,
            "audio_streams": audio,
            "subtitle_streams": subtitles,
            "attachments": tuple(streams.attachments),
            "left_out": tuple(
                stream.type
                for stream in streams
                if stream.index not in kept and not _is_kept_otherwise(stream)
            ),
            "chapters": self._chapters(),
            "metadata": dict(self._container.metadata),
            "video_metadata": dict(video.metadata),
        }
        if self._described:  # it was reopened: templates must be those of the open container
            self.info = replace(self.info, **self._told)

    def _is_decodable(self, stream: av.AudioStream) -> bool:
        """Whether audio can be used: AAC in packets without headers needs a description."""
        context = stream.codec_context
        bare = self._container.format.name.startswith(_DESCRIBING)
        return bool(context) and not (bare and context.name == "aac" and not context.extradata)

    def _chapters(self) -> tuple[Chapter, ...]:
        chapters = []
        for chapter in self._container.chapters():
            unit = chapter["time_base"] or Fraction(1)
            start, end = chapter["start"] * unit, chapter["end"] * unit
            start = start if self._from is None else max(start, self._from)
            end = end if self._until is None else min(end, self._until)
            if start < end:
                chapters.append(Chapter(start, end, dict(chapter["metadata"])))
        return tuple(chapters)

    def _stream_duration(self) -> Fraction | None:
        if self._video.duration:
            return self._video.duration * self._time_base
        if self._container.duration:
            return Fraction(self._container.duration, av.time_base)
        return None

    def _kept_duration(self, whole: Fraction | None) -> Fraction | None:
        """The duration of the part between ``start`` and ``end``."""
        if whole is None or (self._from is None and self._until is None):
            return whole
        first = self._begin if self._from is None else self._from
        last = self._begin + whole
        last = last if self._until is None else min(last, self._until)
        if last <= first and self._timeline.may_jump:
            return None  # the duration is an estimate, and wrong for joined files
        if last <= first:
            raise UsageError.at(
                self._name,
                f"is {float(whole):.3f} s long, so nothing is left from "
                f"{float(first - self._begin):.3f} s on",
                option="start",
                remedy="start earlier",
            )
        return last - first

    def _whole_count(self) -> int:
        """The number of frames of the whole file; 0 if unknown, or if only a part is read."""
        if self._from is not None or self._until is not None:
            return 0
        return self._source.pictures or self._indexed_count()

    def _indexed_count(self) -> int:
        """The frames in the container's index, without those hidden by an edit list; 0 if there is
        no complete index."""
        index = self._video.index_entries
        if len(index) < self._video.frames:
            return self._video.frames
        return sum(not entry.is_discard for entry in index) if self._video.frames else 0

    def _estimated_count(self, duration: Fraction | None) -> int | None:
        if duration and self._frame_rate:
            return round(duration * self._frame_rate)
        return None

    def _read_head(self) -> list[Frame | Packet]:
        """Reads up to the first frame, which has the pixel format and the rotation."""
        head: list[Frame | Packet] = []
        for item in self._items:
            head.append(item)
            if isinstance(item, Frame):
                break
        return head

    def _read(self) -> Generator[Frame | Packet, None, None]:
        for packet in self._demux():
            if self._is_video(packet):
                if self._decoding:
                    yield from self._decode(packet)
            elif packet.stream_index in self._copied and self._wants(packet):
                yield packet
            if self._is_past_end(packet):
                break
        if not self._decoding:
            return
        yield from self._decode(None)
        if self._deinterlacer is not None:
            yield from self._frames(self._deinterlacer.flush())
        self._check_end()

    def _is_video(self, packet: Packet) -> bool:
        return packet.stream_index == self._video.index

    def _demux(self) -> Iterator[Packet]:
        """All packets except empty ones, which libav would take for the end of the stream."""
        timeline = self._timeline
        try:
            for packet in self._container.demux():
                if packet.size:
                    self._note(packet)
                    for mended in timeline(packet):
                        self.damaged |= mended.is_corrupt
                        yield mended
        except (av.FFmpegError, IndexError):  # PyAV cannot handle streams that appear late
            self.damaged = True
        for mended in timeline.flush():
            self.damaged |= mended.is_corrupt
            yield mended
        self.damaged |= timeline.damaged
        if timeline.breaks:
            self._tell_of_times()

    def _note(self, packet: Packet) -> None:
        self._packets_read += self._is_video(packet)
        if packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            self._end_of_packets = max(self._end_of_packets, end)

    def _wants(self, packet: Packet) -> bool:
        """Whether a packet is within the requested part."""
        if packet.pts is None:
            return True
        return self._is_within(packet.pts * packet.time_base)

    def _is_within(self, time: Fraction) -> bool:
        after = self._from is None or time >= self._from
        return after and (self._until is None or time < self._until)

    def _is_past_end(self, packet: Packet) -> bool:
        """Whether no video or audio before ``end`` can follow this packet."""
        if self._until is None or packet.dts is None:
            return False
        time = packet.dts * packet.time_base
        is_video = self._is_video(packet)
        if is_video:
            self._reached |= time >= self._until
        margin = _SKEW if self._has_audio and is_video else 0
        return self._reached and time >= self._until + margin

    def _decode(self, packet: Packet | None) -> Iterator[Frame]:
        if packet is not None and packet.is_corrupt:
            return  # truncated; decoding it would give a smeared picture
        if packet is not None and self._codec in PNG and _PROFILE in bytes(packet)[:_HEAD]:
            self._tell_of_loss({_LOST[Type.ICC_PROFILE]})
        try:
            decoded = self._decoder.decode(packet)
        except av.FFmpegError:
            # After a seek, the reference frames of the first pictures may be missing.
            self.damaged |= self._from_start or self._frames_read > 0
            return
        for picture in decoded:
            if not self._described:
                self._describe_picture(picture)
            if picture.key_frame:
                self._tell_of_side_data(picture)
            try:
                pictures = self._progressive(picture)
            except av.FFmpegError:  # the filter refuses pictures with a damaged header
                self.damaged = True
                continue
            yield from self._frames(pictures)

    def _progressive(self, picture: av.VideoFrame) -> list[av.VideoFrame]:
        """The picture, or for interlaced video the deinterlaced pictures, one picture later."""
        if is_on_device(picture) and (self._deinterlacer is not None or picture.interlaced_frame):
            picture = self._scaler.reformat(picture, format=self.info.format.name)
        before: list[av.VideoFrame] = []
        if self._deinterlacer is not None and not self._deinterlacer.fits(picture):
            before, self._deinterlacer = self._deinterlacer.flush(), None
        if self._deinterlacer is None and (picture.interlaced_frame or before):
            if not self._interlaced:
                log.warning("%s: is interlaced, and gets deinterlaced", self._name)
            self._interlaced = True
            self._deinterlacer = Deinterlacer(picture, self._time_base)
        if self._deinterlacer is None:
            return [*before, picture]
        return [*before, *self._deinterlacer(picture)]

    def _frames(self, pictures: list[av.VideoFrame]) -> Iterator[Frame]:
        for picture in pictures:
            own = picture.dts if picture.pts is None else picture.pts
            pts = self._clock(own, self._step(picture))
            if self._clock.rebuilt:
                self._tell_of_times()
            if self._is_within(pts * self._time_base):
                yield self._frame(picture, pts)

    def _frame(self, picture: av.VideoFrame, pts: int) -> Frame:
        info = self.info
        self.damaged |= picture.is_corrupt
        self._frames_read += 1
        known: dict[str, Any] = {
            "format": info.format,
            "color": info.color,
            "pts": pts,
            "time_base": info.time_base,
            "duration": picture.duration,
            "rotation": info.rotation,
            "aspect": info.aspect,
        }
        if (picture.width, picture.height) != (info.width, info.height):
            return self._resized(picture, known)
        if is_on_device(picture) and self._mirrored:
            picture = self._scaler.reformat(picture, format=info.format.name)
        if is_on_device(picture):
            planes = stand_ins(info.format, info.height, info.width)
            return DeviceFrame(planes=planes, picture=picture, **known)
        planes, alpha = planes_of(picture, info.format, info.color, self._scaler)
        if self._mirrored:
            planes, alpha = upside_down(planes, alpha)
        return Frame(planes=planes, alpha=alpha, **known)

    def _resized(self, picture: av.VideoFrame, known: dict[str, Any]) -> Frame:
        """A picture of another size, scaled to cover the first one's size and cropped."""
        info = self.info
        if not self._told_of_size:
            log.warning(
                "%s: the size changes: pictures of %dx%d, as at %.2f s, are scaled to %dx%d",
                self._name, picture.width, picture.height, float(known["pts"] * info.time_base),
                info.width, info.height,
            )  # fmt: skip
        self._told_of_size = True
        if is_on_device(picture):
            picture = self._scaler.reformat(picture, format=info.format.name)
        planes, alpha = planes_of(picture, info.format, info.color, VideoReformatter())
        if self._mirrored:
            planes, alpha = upside_down(planes, alpha)
        shapes = info.format.shapes(info.height, info.width)
        y, u, v = (np.empty(shape, info.format.dtype) for shape in shapes)
        target = Frame(planes=(y, u, v), **known)
        fitted = fit_frame(Frame(planes=planes, **known), target)
        if alpha is not None:
            opaque = Frame(planes=(alpha, *planes[1:]), **known)
            alpha = fit_frame(opaque, target)[0]
        return Frame(planes=fitted, alpha=alpha, **known)

    def _tell_of_side_data(self, picture: av.VideoFrame) -> None:
        """Logs the kinds of side data that are lost."""
        data: Iterable[Any] = side_data_of(
            picture, self._codec
        )  # PyAV's mapping goes through its values
        known = (item for item in data if not bytes(item).startswith(_ENCODERS))
        self._tell_of_loss({_LOST[item.type] for item in known if item.type in _LOST})

    def _tell_of_loss(self, found: set[str]) -> None:
        """Logs them, unless that was done before."""
        found -= self._told_of_data
        if found:
            log.warning("%s: not copied: %s", self._name, ", ".join(sorted(found)))
        self._told_of_data |= found

    def _describe_picture(self, picture: av.VideoFrame) -> None:
        self._described = True
        rotation, self._mirrored = orientation_of(picture, self._codec)
        layout = picture.sw_format or picture.format
        self.info = VideoInfo(
            width=picture.width,
            height=picture.height,
            rotation=rotation,
            format=nearest_format(layout),
            has_alpha=has_alpha(layout),
            on_device=is_on_device(picture) and not self._mirrored,
            color=color_of(picture),
            mastering=mastering_of(picture, self._codec),
            **self._told,
        )

    def _tell_of_times(self) -> None:
        if not self._told_of_times:
            log.warning(
                "%s: some timestamps are missing, repeated or discontinuous; they are rebuilt",
                self._name,
            )
        self._told_of_times = True

    def _step(self, picture: av.VideoFrame) -> int:
        """The duration of a picture, estimated if unknown, in units of the time base."""
        if picture.duration or not self._frame_rate:
            return max(1, picture.duration)
        return max(1, round(1 / (self._frame_rate * self._time_base)))

    def _check_end(self) -> None:
        if not self._frames_read and self._described and not self.damaged:
            raise UsageError.at(
                self._name,
                "has no frame between start and end",
                option="start",
                remedy="change them",
            )
        if not self._frames_read:
            advice = "download it first" if is_url(self._name) else "check that it is complete"
            raise InputError.at(self._name, "has no decodable picture", remedy=advice)
        if not (self.damaged or self._is_cut()):
            return
        total = f" of {self._frame_count}" if (self._frame_count or 0) > self._frames_read else ""
        raise TruncatedInputError.at(
            self._name, f"is truncated or damaged: {self._frames_read}{total} frames could be read"
        )

    def _is_cut(self) -> bool:
        """Whether the file has less than its container declares."""
        if self._until is not None:
            return False
        if self._from_start and self._packets_read < len(self._video.index_entries):
            return True
        if self._source.file is not None and self._file_lacks_bytes(self._source.file):
            return True
        name, length = self._container.format.name, self._container.duration
        if not name.startswith(_DECLARING) or not length:
            return False
        # Some declare the time of the end, some the length; the former gives no false alarms.
        return Fraction(length, av.time_base) - self._end_of_packets > _SLACK

    def _file_lacks_bytes(self, file: Path) -> bool:
        if self._container.format.name == "mpegts":
            return all(file.stat().st_size % packet for packet in _TS_PACKETS)
        return _lacks_bytes(file)


class Deinterlacer:
    """libav's bwdif filter: deinterlaces pictures marked as interlaced, one frame per picture."""

    def __init__(self, like: av.VideoFrame, time_base: Fraction) -> None:
        self._time_base = time_base
        self._shape = like.width, like.height, like.format.name
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=like.width, height=like.height, format=like.format, time_base=time_base
        )
        filter = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        self._graph.link_nodes(source, filter, self._graph.add("buffersink")).configure()

    def fits(self, picture: av.VideoFrame) -> bool:
        """Whether a picture has the size and format that the filter was set up for; others would be
        read beyond their end."""
        return self._shape == (picture.width, picture.height, picture.format.name)

    def __call__(self, picture: av.VideoFrame) -> list[av.VideoFrame]:
        """Takes a picture that ``fits``; returns those that are done."""
        self._graph.vpush(picture)
        return self._done()

    def flush(self) -> list[av.VideoFrame]:
        """Returns the last pictures."""
        self._graph.vpush(None)
        return self._done()

    def _done(self) -> list[av.VideoFrame]:
        pictures: list[av.VideoFrame] = []
        while True:
            try:
                picture = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return pictures
            scale = (picture.time_base or self._time_base) / self._time_base
            if picture.pts is not None:
                picture.pts = round(picture.pts * scale)
            picture.duration = round(picture.duration * scale)
            picture.time_base = self._time_base
            pictures.append(picture)


def _is_kept_otherwise(stream: av.stream.Stream) -> bool:
    """Whether a data track holds a timecode or chapters, which are copied as metadata."""
    handler = stream.metadata.get("handler_name", "")
    is_text = stream.type == "data" and handler.startswith(("SubtitleHandler", "Chapter"))
    return "timecode" in stream.metadata or handler.startswith("TimeCode") or is_text


def _check_range(start: Fraction | float | None, end: Fraction | float | None) -> None:
    for name, time in (("start", start), ("end", end)):
        if time is not None and time < 0:
            raise UsageError(f"{name} must be 0 s or more, not {float(time)}", option=name)
    if end is not None and end <= (start or 0):
        raise UsageError(
            f"end ({float(end)} s) must be after start ({float(start or 0)} s)", option="end"
        )


def _rate_of(video: av.VideoStream) -> Fraction | None:
    """The average frame rate; if it is implausibly high, the lowest rate of the container: DV and
    others report their clock rate."""
    rates = [rate for rate in (video.average_rate, video.guessed_rate, video.base_rate) if rate]
    if not rates or rates[0] <= _BELIEVED:
        return rates[0] if rates else None
    return min(rates)


def _decoder_of(video: av.VideoStream) -> VideoCodecContext:
    """The stream's own decoder, or one that reads alpha if the container says there is some."""
    name = _ALPHA_DECODERS.get(video.codec_context.codec.canonical_name)
    tags = {key.lower(): value for key, value in video.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1":
        return video.codec_context
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, VideoCodecContext)
    return decoder


def _lacks_bytes(path: Path) -> bool:
    """Whether a Matroska file is shorter than its declared size, which libav does not check.

    Live recordings declare no size.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(4) != _EBML:
            return False
        file.seek(_vint(file) or 0, os.SEEK_CUR)
        size = _vint(file) if file.read(4) == _SEGMENT else None
        return size is not None and file.tell() + size > path.stat().st_size


def _vint(file: BinaryIO) -> int | None:
    """Reads a variable-length integer of Matroska; None for "unknown"."""
    first = file.read(1)[0]
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first & (0xFF >> length)]) + file.read(length - 1))
    return None if value == (1 << 7 * length) - 1 else value
