"""Segments of a video: cut at key frames, worked on one by one, joined without encoding again.

``plan`` cuts, a job makes a file of each segment, and ``join`` puts these files together: their
packets are copied, the audio comes from the input.
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
"""Containers that store when their frames are shown, wherever in a video they begin."""
FRAMES = 600
"""A segment is cut at the first key frame after so many frames; that much work a kill can cost."""
_MOST_REORDERED = 16
"""Frames by which decoding can lead in H.264 and HEVC."""
WARM_UP = 32
"""Frames that the network sees before a segment which it has not followed."""


class Span(NamedTuple):
    """The frames of a video with ``begin`` <= pts < ``end``, in units of its time base.

    end: None is the video's end.
    warm_from: the pts of the frame at which the network starts, to know what came before ``begin``.
    origin: the pts of the video's first frame.
    """

    begin: int
    end: int | None
    warm_from: int
    origin: int

    def has(self, pts: int) -> bool:
        """Whether a frame is one of them, and not one around them."""
        return self.begin <= pts and (self.end is None or pts < self.end)


class SegmentPlan(NamedTuple):
    """How a video is cut; ``digest`` tells one video from another."""

    spans: list[Span]
    digest: str


class FinishedSegments(NamedTuple):
    """What an output is joined from.

    files: for each output its files in order.
    reason: why they are not all; the output is then left as a ``.part`` file, and this is raised.
    frames: how many they must be together; None where that is not known.
    """

    files: Mapping[Path, Sequence[Path]]
    reason: BaseException | None = None
    frames: int | None = None


def plan(reader: Reader, frames: int | None = None) -> SegmentPlan:
    """Cuts a video at key frames into segments of at least ``frames`` frames (FRAMES).

    Reads through the file without decoding it.  A video whose packets do not all tell their own
    time is one segment: there the time of a frame depends on all frames before it.
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
        raise InputError(f"{reader.name}: has no picture that can be decoded; is it complete?")
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
    """Indices of the frames at which segments begin."""
    cuts = [0]
    for key in keys:
        index = bisect_left(times, key)
        if index - cuts[-1] >= frames:
            cuts.append(index)
    return cuts


def join(reader: Reader, writers: Sequence[Writer], parts: FinishedSegments, *, audio: bool) -> int:
    """Fills each writer with the packets of its parts, the first one also with the audio.

    Returns the number of frames.  If the parts are not all, the audio ends with them.

    Raises:
        OutputError: they have not the frames that they must have.
    """
    frames = 0
    for writer in writers:
        files = parts.files[Path(writer.name)]
        sound = reader.copies() if audio and writer is writers[0] else iter(())
        frames = _join(writer, files, sound, whole=parts.reason is None)
        if parts.frames is not None and frames < parts.frames:
            raise OutputError(
                f"{writer.path}: {frames} of {parts.frames} frames were joined; "
                "--resume does the others again"
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
    """When a packet is due in the file, in seconds."""
    stamp = packet.pts if packet.dts is None else packet.dts
    return float((stamp or 0) * packet.time_base)


def _retimed(files: Sequence[Path]) -> Iterator[Packet]:
    """The video packets of all files, with decoding times that increase over the joints.

    An encoder that reorders its frames starts to decode some frames before the first is shown: in
    every file anew.  In the whole, a packet is decoded when the frame so many places earlier is
    shown.
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
    """Times at which a file's frames are shown; by how many frames, and units, decoding leads."""
    stamps = [(p.pts, p.dts) for p in _video_packets(file)]
    shown = sorted(pts for pts, _ in stamps if pts is not None)
    delay = sum(dts < shown[0] for _, dts in stamps if dts is not None)
    with av.open(f"file:{file}") as container:
        context = container.streams.video[0].codec_context
        if "matroska" in container.format.name and context.has_b_frames:
            delay = (
                _MOST_REORDERED  # it stores no decoding times: any that are early enough will do
            )
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    return shown, delay, step


def is_playable(file: Path) -> bool:
    """Whether a file has a picture that can be taken out of it."""
    try:
        return any(True for _ in _video_packets(file))
    except (av.FFmpegError, OSError, IndexError):
        return False


def count_frames(file: Path) -> int:
    """How many frames a file has, as far as it can be read."""
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
    """The packets as the encoder gave them; H.264 and HEVC lie in most containers in another way.

    The parameter sets come along, so that each part brings its own.
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
