"""Repairs timestamps: discontinuities of joined recordings, wrapped counters, damaged values.

``Timeline`` repairs packets and keeps the streams in sync; ``FrameClock`` repairs decoded pictures.
Both leave correct timestamps unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import av

Packet: TypeAlias = "av.Packet[Any]"

_BACK = Fraction(1, 10)
"""Seconds by which dts may go back before that counts as a discontinuity."""
_BACK_SHOWN = 2
"""The same for packets that only have pts, which are reordered."""
_AHEAD = 10
"""Seconds of a gap that count as a discontinuity in containers that allow them ..."""
_AHEAD_ELSEWHERE = 30 * 3600
"""... and in the others, whose gaps are usually intended.  Both as in the ffmpeg command."""

_DOUBTFUL = 3
"""Number of packets before a joint that libav may mark as damaged."""

_TS_DISCONT = 0x0200
"""AVFMT_TS_DISCONT: the container allows timestamp discontinuities."""


@dataclass
class _Stream:
    """The state of one stream; timestamps in its time base, after the repair.

    decoded, shown: highest dts and pts so far; end: expected time of the next packet; raw: last
    timestamp before the repair.
    shift: current offset in seconds.
    held: a packet with an unexpected time; the next packet shows whether it is a discontinuity or a
    single wrong value.
    doubtful: a packet that libav marked as damaged, and those after it: it may be at a joint.
    """

    decoded: int | None = None
    shown: int | None = None
    end: int = 0
    raw: int | None = None
    shift: Fraction = Fraction(0)
    held: Packet | None = None
    doubtful: list[Packet] = field(default_factory=list)

    def before(self, packet: Packet) -> int | None:
        """The time that the packet must follow: dts and pts are not comparable."""
        return self.shown if packet.dts is None else self.decoded


class Timeline:
    """Takes the packets of a container in order and returns them with continuous timestamps.

    At a discontinuity (two files joined into one) all streams are shifted by one offset, so that
    they stay in sync.  A single packet with a wrong time gets the time of its place in the file.
    Audio that overlaps at a joint is dropped.

    joined: whether it is known to consist of several files.

    may_jump: whether the container allows discontinuities, as broadcast formats do.
    breaks: number of discontinuities.
    damaged: whether single packets had wrong times.
    """

    def __init__(self, container: av.container.InputContainer, *, joined: bool = False) -> None:
        self.may_jump = joined or bool(container.format.flags & _TS_DISCONT)
        self._ahead = _AHEAD if self.may_jump else _AHEAD_ELSEWHERE
        self._streams: dict[int, _Stream] = {}
        self._shift = Fraction(0)
        self._end = Fraction(0)
        self.breaks, self.damaged = 0, False

    def __call__(self, packet: Packet) -> Iterator[Packet]:
        """The packets that are ready: usually this one."""
        if packet.stream.type not in ("video", "audio"):
            yield self._shifted(packet, self._shift)
            return
        stream = self._streams.setdefault(packet.stream_index, _Stream())
        if stream.doubtful:
            joint = self._breaks(stream, packet)
            if not joint and len(stream.doubtful) < _DOUBTFUL:
                stream.doubtful.append(packet)
                return
            yield from self._believe(stream, joint=joint)
        held, stream.held = stream.held, None
        if held is not None:
            yield from self._settle(stream, held, packet)
        if self._breaks(stream, packet):
            stream.held = packet
        elif packet.is_corrupt and self.may_jump:
            stream.doubtful.append(packet)
        else:
            yield from self._pass(stream, packet)

    def flush(self) -> Iterator[Packet]:
        """At the end: the packets still held back."""
        for stream in self._streams.values():
            held, stream.held = stream.held, None
            yield from self._believe(stream, joint=False)
            if held is not None:
                yield from self._place(stream, held)

    def _believe(self, stream: _Stream, *, joint: bool) -> Iterator[Packet]:
        """Releases the doubtful packets.

        joint: the continuity counters restart there, which libav takes for missing packets.
        """
        waiting, stream.doubtful = stream.doubtful, []
        for packet in waiting:
            if joint:
                packet.is_corrupt = False
            yield from self._pass(stream, packet)

    def _breaks(self, stream: _Stream, packet: Packet) -> bool:
        """Whether the packet's time does not continue its stream."""
        stamp, last = _stamp(packet), stream.before(packet)
        if stamp is None or last is None:
            return False
        unit = packet.time_base
        time = stamp * unit + stream.shift
        back = _BACK if packet.dts is not None else _BACK_SHOWN
        return time < last * unit - back or time > stream.end * unit + self._ahead

    def _settle(self, stream: _Stream, held: Packet, following: Packet) -> Iterator[Packet]:
        """Decides about a held packet, now that the next one is known."""
        before, after = _stamp(held), _stamp(following)
        assert before is not None
        near = after is not None and abs(after - before) * held.time_base < self._ahead
        if not (near and self._breaks(stream, following)):
            yield from self._place(stream, held)
            return
        shown = before if held.pts is None else held.pts
        if not self._continues(stream, held, self._shift):
            self.breaks += 1
            self._shift = self._end - shown * held.time_base
        stream.shift = self._shift
        yield from self._pass(stream, held)

    def _continues(self, stream: _Stream, packet: Packet, shift: Fraction) -> bool:
        """Whether the packet continues its stream with the offset found for another stream."""
        stamp, last = _stamp(packet), stream.before(packet)
        assert stamp is not None and last is not None
        ahead = (stamp - last) * packet.time_base + shift
        return -1 < ahead < _AHEAD and shift != stream.shift

    def _place(self, stream: _Stream, packet: Packet) -> Iterator[Packet]:
        """Releases a packet with a wrong time, at its place in the file."""
        self.damaged = True
        if packet.stream.type == "video":
            packet.pts = packet.dts = None  # the frame gets its time when it is decoded
        else:
            packet.pts = packet.dts = stream.end
            stream.decoded = stream.shown = stream.end
            stream.end += packet.duration or 1
        yield packet

    def _pass(self, stream: _Stream, packet: Packet) -> Iterator[Packet]:
        """Releases a packet that continues its stream, unless it is audio that overlaps."""
        raw = _stamp(packet)
        packet = self._shifted(packet, stream.shift)
        if packet.stream.type == "audio" and not self._in_order(stream, packet, raw):
            return
        stream.raw = raw
        duration = packet.duration or 0
        if packet.dts is not None:
            stream.decoded = max(packet.dts, stream.decoded or packet.dts)
            stream.end = max(stream.end, packet.dts + duration)
        if packet.pts is not None:
            stream.shown = max(packet.pts, stream.shown or packet.pts)
            self._end = max(self._end, (packet.pts + duration) * packet.time_base)
            if packet.dts is None:
                stream.end = max(stream.end, packet.pts + duration)
        yield packet

    def _in_order(self, stream: _Stream, packet: Packet, raw: int | None) -> bool:
        """Makes an audio packet follow the previous one; False if it must be dropped."""
        last = stream.before(packet)
        if raw is None or raw == stream.raw:
            packet.pts = packet.dts = stream.end
        elif last is not None and (stamp := _stamp(packet)) is not None and stamp <= last:
            if self.breaks and stamp + (packet.duration or 0) // 2 < stream.end:
                return False
            packet.pts = packet.dts = last + 1
        return True

    @staticmethod
    def _shifted(packet: Packet, shift: Fraction) -> Packet:
        if shift:
            ticks = round(shift / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        return packet


def _stamp(packet: Packet) -> int | None:
    return packet.pts if packet.dts is None else packet.dts


class FrameClock:
    """Makes the timestamps of a video's pictures, in presentation order, strictly increasing.

    A picture without a timestamp, or with the previous one's, is placed one step later; then the
    clock advances by half steps until the file's timestamps have caught up.

    first: time of the first picture; None before it.
    rebuilt: number of timestamps that were changed.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self.rebuilt = 0
        self._last: int | None = None
        self._raw: int | None = None

    def __call__(self, pts: int | None, step: int) -> int:
        """The repaired time of the next picture.

        pts: its own timestamp; step: duration of a picture, in units of the time base.
        """
        if self._last is None:
            time = 0 if pts is None else pts
            self.first = time
        elif pts is not None and pts > self._last:
            time = pts
        else:
            self.rebuilt += 1
            catches_up = pts is not None and self._raw is not None and pts > self._raw
            time = self._last + (max(1, step // 2) if catches_up else max(1, step))
        self._last, self._raw = time, pts if pts is not None else self._raw
        return time
