"""Segments of a video: split at key frames, processed separately, joined without re-encoding.

``plan`` splits the video, a job makes a file of each segment, and ``join`` copies the packets of
these files into one, with the audio of the input.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import av

from fusematte.engine.errors import InputError, OutputError
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.writer import Writer

Packet: TypeAlias = "av.Packet[Any]"

JOINABLE = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts", ".flv")
"""Containers that store timestamps as they are, even if a file does not start at zero."""
FRAMES = 600
"""A segment ends at the first key frame after so many frames; a crash costs at most one segment."""
_MOST_REORDERED = 16
"""Maximum number of reordered frames in H.264 and HEVC."""
WARM_UP = 32
"""Frames that the network sees before a segment, unless it has just processed the previous one."""


class Span(NamedTuple):
    """The frames of a video with ``begin`` <= pts < ``end``, in units of its time base.

    end: None is the end of the video.
    warm_from: pts of the first warm-up frame.
    origin: pts of the video's first frame.
    """

    begin: int
    end: int | None
    warm_from: int
    origin: int

    def has(self, pts: int) -> bool:
        """Whether the span contains this pts."""
        return self.begin <= pts and (self.end is None or pts < self.end)


class SegmentPlan(NamedTuple):
    """The segments of a video; ``digest`` identifies the video."""

    spans: list[Span]
    digest: str


class FinishedSegments(NamedTuple):
    """The files that outputs are joined from.

    files: for each output, its segments' files in order.
    reason: why segments are missing; the output is then left as a ``.part`` file, and this is
    raised.
    frames: the expected total number of frames; None if unknown.
    """

    files: Mapping[Path, Sequence[Path]]
    reason: BaseException | None = None
    frames: int | None = None


def plan(reader: Reader, frames: int | None = None) -> SegmentPlan:
    """Splits a video at key frames into segments of at least ``frames`` frames (FRAMES).

    It reads the whole file without decoding it.  A video with missing or irregular timestamps is
    one segment: there the time of a frame depends on all frames before it.
    """
    times, keys, digest, told = array("q"), array("q"), hashlib.sha256(), True
    for packet in reader.video_packets():
        pts = packet.pts
        digest.update(struct.pack("<?q?q", pts is None, pts or 0, packet.is_keyframe, packet.size))
        if pts is None:
            told = False
            continue
        times.append(pts)
        if packet.is_keyframe:
            keys.append(pts)
    if told and not times:
        raise InputError.at(reader.name, "has no picture that can be decoded; is it complete?")
    ordered = sorted(times) or [0]
    told = told and not reader.jumps and all(a < b for a, b in pairwise(ordered))
    cuts = _cuts(ordered, sorted(keys), frames or FRAMES) if told else [0]
    begins = [ordered[cut] for cut in cuts]
    spans = [
        Span(begin, end, ordered[max(0, cut - WARM_UP)], ordered[0])
        for cut, begin, end in zip(cuts, begins, [*begins[1:], None], strict=True)
    ]
    return SegmentPlan(spans, digest.hexdigest())


def _cuts(times: list[int], keys: list[int], frames: int) -> list[int]:
    """Indices of the first frames of the segments."""
    cuts = [0]
    for key in keys:
        index = bisect_left(times, key)
        if index - cuts[-1] >= frames:
            cuts.append(index)
    return cuts


def join(reader: Reader, writers: Sequence[Writer], parts: FinishedSegments, *, audio: bool) -> int:
    """Copies the packets of its segments into each writer, and the audio into the first one.

    Returns the number of frames.  If segments are missing, the audio ends with the last one.

    Raises:
        OutputError: frames are missing.
    """
    frames = 0
    for writer in writers:
        files = parts.files[Path(writer.name)]
        sound = reader.copies() if audio and writer is writers[0] else iter(())
        frames = _join(writer, files, sound, whole=parts.reason is None)
        if parts.frames is not None and frames < parts.frames:
            raise OutputError.at(
                writer.path,
                f"only {frames} of {parts.frames} frames were joined",
                remedy="run it again with --resume",
            )
    if parts.reason is not None:
        raise parts.reason
    return frames


def _join(writer: Writer, files: Sequence[Path], sound: Iterator[Packet], *, whole: bool) -> int:
    frames, last = 0, float("inf")
    if not whole:
        last = max((_end(file) for file in files), default=0.0)
    pictures = ((_time(packet), True, packet) for packet in _retimed(files))
    sounds = ((_time(packet), False, packet) for packet in sound)
    for time, is_picture, packet in heapq.merge(pictures, sounds, key=lambda item: item[0]):
        if is_picture:
            frames += 1
            writer.write_encoded(packet)
        elif time < last:
            writer.mux(packet)
        else:
            break
    return frames


def _time(packet: Packet) -> float:
    """A packet's dts, or its pts, in seconds."""
    stamp = packet.pts if packet.dts is None else packet.dts
    return float((stamp or 0) * packet.time_base)


def _retimed(files: Sequence[Path]) -> Iterator[Packet]:
    """The video packets of all files, with dts that increase across segments.

    With reordered frames, each file starts with some dts before its first pts.  In the joined file,
    the dts of a packet is the pts of the frame so many places earlier.
    """
    due: deque[int] = deque()
    for number, file in enumerate(files):
        shown, delay, step = _presentation(file)
        if number == 0:
            due.extend(shown[0] - step * early for early in range(delay, 0, -1))
        due.extend(shown)
        for packet in _unpacked(file):
            packet.dts = due.popleft()
            yield packet


def _presentation(file: Path) -> tuple[list[int], int, int]:
    """The sorted pts of a file, the number of reordered frames, and the duration of a frame."""
    stamps = [(p.pts, p.dts) for p in _video_packets(file)]
    shown = sorted(pts for pts, _ in stamps if pts is not None)
    delay = sum(dts < shown[0] for _, dts in stamps if dts is not None)
    with av.open(f"file:{file}") as container:
        context = container.streams.video[0].codec_context
        if "matroska" in container.format.name and context.has_b_frames:
            delay = _MOST_REORDERED  # it stores no dts: any that are early enough will do
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    return shown, delay, step


def is_playable(file: Path) -> bool:
    """Whether a file has at least one readable video packet."""
    try:
        return any(True for _ in _video_packets(file))
    except (av.FFmpegError, OSError, IndexError):
        return False


def count_frames(file: Path) -> int:
    """The number of frames in a file, up to the first damage."""
    count = 0
    try:
        for _ in _video_packets(file):
            count += 1
    except (av.FFmpegError, OSError, IndexError):
        pass
    return count


def _end(file: Path) -> float:
    return max(_time(p) + float((p.duration or 0) * p.time_base) for p in _video_packets(file))


def _video_packets(file: Path) -> Iterator[Packet]:
    with av.open(f"file:{file}") as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                yield packet


def _unpacked(file: Path) -> Iterator[Packet]:
    """The video packets; H.264 and HEVC are converted from MP4's format to Annex B.

    Annex B contains the parameter sets, so that each segment brings its own.
    """
    with av.open(f"file:{file}") as container:
        video = container.streams.video[0]
        name = f"{video.codec_context.codec.canonical_name}_mp4toannexb"
        header = video.codec_context.extradata or b""
        if name not in av.bitstream.bitstream_filters_available or not header.startswith(b"\x01"):
            yield from (packet for packet in container.demux(video) if packet.size)
            return
        unpack = av.BitStreamFilterContext(name, video)
        for packet in container.demux(video):
            if packet.size:
                yield from unpack.filter(packet)
