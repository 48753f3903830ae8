"""The video reader: a file in, its pictures out as Frames in their own YUV planes.

Timestamps are the container's own; audio packets are handed on as they lie in the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias

import av
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from fusematte.engine.errors import InputError, TruncatedInputError
from fusematte.engine.frame import Frame
from fusematte.engine.pictures import color_of, nearest_format, planes_of

Packet: TypeAlias = "av.Packet[Any]"

_GEN_PTS = 1  # AVFMT_FLAG_GENPTS, which PyAV sets
_TS_PACKETS = (188, 192, 204)  # bytes; a whole file has a whole number of one of these
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"

_SLACK = Fraction(1, 2)
"""Seconds by which a whole file may end before its declared duration."""

_SEEK_MARGINS = (0, 2, 20)
"""Seconds that a seek goes further back each time it came out too late."""

_DECLARING = ("mov", "matroska", "avi", "flv", "asf")
"""Containers whose header tells the duration; for the others libav estimates it."""


class Reader:
    """An open video file; iterating gives its frames.

    path: the file.
    width, height: of the coded picture, in pixels, before rotation.
    format: the layout of the frames' planes.
    color: the colour tags of the frames.
    rotation: degrees clockwise (0, 90, 180, 270) that a player turns the picture for display.
    aspect: width over height of one pixel.
    frame_rate: average, in frames per second; None where unknown.
    time_base: the unit of timestamps, in seconds.
    frame_count: as the container tells it, else estimated; None where unknown.
    duration: in seconds; None where unknown.
    audio_streams: templates for copies of the audio streams.
    metadata: the container's tags (title and the like).
    damaged: something that was read so far could not be decoded.

    Raises:
        InputError: the file is missing, is no video, or has no picture that can be decoded.
        TruncatedInputError: while iterating, after the last good frame: the file is cut or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._container = _open(self.path)
        self._scaler = VideoReformatter()
        self._frames_read = self._packets_read = 0
        self._last_pts: int | None = None
        self._end, self.damaged = Fraction(0), False
        self._from_start = self._decoding = True
        try:
            self._video = self._pick_stream()
            self._describe_stream()
            self._items = self._read()
            self._head = self._read_head()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return (item for item in self.items() if isinstance(item, Frame))

    def items(self) -> Iterator[Frame | Packet]:
        """Frames and the packets of all audio streams, untouched, as they come in the file.

        There is one pass over the file: whatever has been given is not given again.
        """
        while self._head:
            yield self._head.pop(0)
        yield from self._items

    def copies(self) -> Iterator[Packet]:
        """The packets that are copied, without the pictures, which are not even decoded."""
        self._decoding = False
        return (item for item in self.items() if not isinstance(item, Frame))

    def video_packets(self) -> Iterator[Packet]:
        """The packets of the video, not decoded, from the file's beginning on.

        What frames were read before does not count; ``seek`` to read some again.
        """
        self._items.close()
        self._head.clear()
        self._move(None)
        return (packet for packet in self._demux() if packet.stream is self._video)

    def seek(self, pts: int) -> None:
        """Go on at ``pts`` (in units of the time base), or as little before it as can be decoded.

        Containers index decoding times, some of them badly: if the first picture comes too late,
        the search goes further back, at last to the beginning.

        Raises:
            InputError: the file cannot be read from another place than its beginning.
        """
        for seconds in _SEEK_MARGINS:
            self._restart(pts - math.ceil(seconds / self.time_base))
            if any(isinstance(item, Frame) and item.pts <= pts for item in self._head):
                return
        self._restart(None)

    def _restart(self, pts: int | None) -> None:
        self._items.close()
        self._move(pts)
        self._items = self._read()
        self._head = self._read_head()

    def _move(self, pts: int | None) -> None:
        """To the key frame at or before ``pts``; None is the file's beginning."""
        self._from_start, self._last_pts = pts is None, None
        if pts is None:  # a seek to the first timestamp misses the first frames of some containers
            self._container.close()
            self._container = _open(self.path)
            self._video = self._pick_stream()
            self._describe_stream()
            return
        try:
            self._container.seek(pts, stream=self._video)
        except av.FFmpegError as error:
            raise InputError(f"{self.path}: cannot be read from another place: {error}") from error

    def close(self) -> None:
        """Close the file; frames that were read stay valid."""
        self._items.close()
        self._head.clear()
        self._container.close()

    def _pick_stream(self) -> av.VideoStream:
        streams = self._container.streams.video
        if not streams:
            raise InputError(f"{self.path}: has no video, only other streams; give a video file")
        video = self._container.streams.best("video") or streams[0]
        if not isinstance(video, av.VideoStream) or video.codec_context is None:
            raise InputError(f"{self.path}: its video codec is unknown; convert the file first")
        video.thread_type = "AUTO"
        return video

    def _describe_stream(self) -> None:
        video, container = self._video, self._container
        self.time_base = video.time_base or Fraction(1, 90000)
        self.frame_rate = video.average_rate or video.guessed_rate or None
        self.aspect = video.sample_aspect_ratio or Fraction(1)
        self.audio_streams = tuple(s for s in container.streams.audio if s.codec_context)
        self.metadata = dict(container.metadata)
        self.duration = self._stream_duration()
        self.frame_count = self._indexed_count() or self._estimated_count()

    def _stream_duration(self) -> Fraction | None:
        if self._video.duration:
            return self._video.duration * self.time_base
        if self._container.duration:
            return Fraction(self._container.duration, av.time_base)
        return None

    def _indexed_count(self) -> int:
        """Frames in the container's index, without those its edit list hides; 0 if incomplete."""
        index = self._video.index_entries
        if len(index) < self._video.frames:
            return self._video.frames
        return sum(not entry.is_discard for entry in index) if self._video.frames else 0

    def _estimated_count(self) -> int | None:
        if self.duration and self.frame_rate:
            return round(self.duration * self.frame_rate)
        return None

    def _read_head(self) -> list[Frame | Packet]:
        """Read up to the first frame: only that tells the pixel format and the rotation."""
        head: list[Frame | Packet] = []
        for item in self._items:
            head.append(item)
            if isinstance(item, Frame):
                break
        return head

    def _read(self) -> Generator[Frame | Packet, None, None]:
        for packet in self._demux():
            if packet.stream is self._video:
                if self._decoding:
                    yield from self._decode(packet)
            elif packet.stream in self.audio_streams:
                yield packet
        if self._decoding:
            yield from self._decode(None)
            self._check_end()

    def _demux(self) -> Iterator[Packet]:
        """All packets but the empty ones, which libav would take for the end of the stream."""
        try:
            for packet in self._container.demux():
                if packet.size:
                    self._note(packet)
                    yield packet
        except av.FFmpegError:
            self.damaged = True

    def _note(self, packet: Packet) -> None:
        self._packets_read += packet.stream is self._video
        self.damaged |= packet.is_corrupt
        if packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            self._end = max(self._end, end)

    def _decode(self, packet: Packet | None) -> Iterator[Frame]:
        if packet is not None and packet.is_corrupt:
            return  # cut short; decoding it would give a smeared picture
        try:
            pictures = self._video.decode(packet)
        except av.FFmpegError:
            self.damaged = True
            return
        for picture in pictures:
            yield self._frame(picture)

    def _frame(self, picture: av.VideoFrame) -> Frame:
        if not self._frames_read:
            self._describe_picture(picture)
        elif (picture.width, picture.height) != (self.width, self.height):
            raise InputError(
                f"{self.path}: the picture changes from {self.width}x{self.height} to "
                f"{picture.width}x{picture.height} at frame {self._frames_read}; split the file"
            )
        self.damaged |= picture.is_corrupt
        self._frames_read += 1
        self._last_pts = self._timestamp(picture)
        return Frame(
            planes=planes_of(picture, self.format, self.color, self._scaler),
            format=self.format,
            color=self.color,
            pts=self._last_pts,
            time_base=self.time_base,
            duration=picture.duration,
            rotation=self.rotation,
            aspect=self.aspect,
        )

    def _describe_picture(self, picture: av.VideoFrame) -> None:
        self.width, self.height = picture.width, picture.height
        self.rotation = round(-picture.rotation / 90) * 90 % 360  # libav's is counterclockwise
        self.format = nearest_format(picture.format)
        self.color = color_of(picture)

    def _timestamp(self, picture: av.VideoFrame) -> int:
        """The container's; where it has none, or one that does not increase, the next possible."""
        last = self._last_pts
        pts = picture.dts if picture.pts is None else picture.pts
        if last is None:
            return pts or 0
        if pts is None:
            return last + self._step(picture)
        return max(pts, last + 1)

    def _step(self, picture: av.VideoFrame) -> int:
        """How long a picture of unknown duration lasts, in units of the time base."""
        if picture.duration or not self.frame_rate:
            return max(1, picture.duration)
        return max(1, round(1 / (self.frame_rate * self.time_base)))

    def _check_end(self) -> None:
        if not self._frames_read:
            raise InputError(f"{self.path}: has no picture that can be decoded; is it complete?")
        if not (self.damaged or self._is_cut()):
            return
        total = f" of {self.frame_count}" if (self.frame_count or 0) > self._frames_read else ""
        raise TruncatedInputError(
            f"{self.path}: is cut short or damaged: {self._frames_read}{total} frames could be read"
        )

    def _is_cut(self) -> bool:
        """Whether the container promised more than came."""
        unread = self._from_start and self._packets_read < len(self._video.index_entries)
        if unread or _lacks_bytes(self.path):
            return True
        name, length = self._container.format.name, self._container.duration
        if name == "mpegts":
            return all(self.path.stat().st_size % packet for packet in _TS_PACKETS)
        if not name.startswith(_DECLARING) or not length:
            return False
        # Some count the length from zero, some from the first packet: zero gives no false alarms.
        return Fraction(length, av.time_base) - self._end > _SLACK


def _open(path: Path) -> InputContainer:
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give a video file")
    if path.is_file() and not path.stat().st_size:
        raise InputError(f"{path}: is empty; give a video file")
    try:
        # The prefix keeps a colon in the name from being taken for a protocol.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except PermissionError as error:
        raise InputError(f"{path}: may not be read; check its permissions") from error
    except (av.FFmpegError, ValueError) as error:
        raise InputError(_why_not_video(path)) from error
    container.flags &= ~_GEN_PTS  # it gives the frames of an AVI one frame too late
    return container


def _why_not_video(path: Path) -> str:
    with path.open("rb") as file:
        is_mp4 = file.read(8)[4:] == b"ftyp"
    if is_mp4:
        return (
            f"{path}: this MP4 has lost its index (moov) and cannot be read; record or copy it anew"
        )
    return f"{path}: is no video that can be read; give a video file"


def _lacks_bytes(path: Path) -> bool:
    """Whether a Matroska file is shorter than it says itself; libav does not tell.

    Live recordings do not say their size.
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
    """Read one of Matroska's integers of variable length; None is its "unknown"."""
    first = file.read(1)[0]
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first & (0xFF >> length)]) + file.read(length - 1))
    return None if value == (1 << 7 * length) - 1 else value
