"""Sound on its way from a live source to recordings and streams; it does not pass the session.

Inside, all sound is stereo, 48 kHz, in 32-bit floats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import median
from typing import Any, TypeAlias

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

Packet: TypeAlias = "av.Packet[Any]"

RATE = 48_000
"""Samples per second."""
LATE = 1.0
"""Seconds that sound may arrive after its picture; what comes later is replaced by silence."""
_LEAP = 0.1
"""Seconds between the timestamps of two pieces that count as a gap; less is jitter."""
_JUMP = 0.5
"""If a picture's offset differs by more seconds, the source's clock has jumped."""
_PICTURES = 25
"""Number of pictures whose offsets are considered."""
_BITRATE = 160_000


@dataclass(frozen=True)
class Sound:
    """A piece of sound.

    samples: [2, n], -1 to 1, float32.
    time: of the first sample, in seconds, on the clock of the frames.
    """

    samples: NDArray[np.float32]
    time: float


class SoundDecoder:
    """Decodes the packets of a stream; what cannot be decoded is left out."""

    def __init__(self, stream: av.AudioStream) -> None:
        self.index = stream.index
        self._decoder = stream.codec_context
        self._resampler = _resampler()

    def __call__(self, packet: Packet) -> Iterator[Sound]:
        try:
            frames = self._decoder.decode(packet)
        except av.FFmpegError:
            return
        for frame in frames:
            parts: list[Any] = [part.to_ndarray() for part in self._resampled(frame)]
            if parts and frame.time is not None:
                yield Sound(np.concatenate(parts, 1), frame.time)

    def _resampled(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
        try:
            return self._resampler.resample(frame)
        except ValueError:  # the source changed its rate or its channels
            self._resampler = _resampler()
            return self._resampler.resample(frame)


def _resampler() -> av.AudioResampler:
    return av.AudioResampler("fltp", "stereo", RATE)


class Offset:
    """The offset from a source's clock to that of the outputs.

    Some pictures arrive late, and sound must not stutter because of that: the offset is the median
    of those of the last pictures.  When the source's clock jumps, as after a lost connection, the
    median starts again.
    """

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_PICTURES)

    def note(self, source: float, clock: float) -> None:
        """Registers a picture with the time ``source`` that arrived at the time ``clock``."""
        now = clock - source
        if self._seconds and abs(now - median(self._seconds)) > _JUMP:
            self._seconds.clear()
        self._seconds.append(now)

    def moved(self, sound: Sound) -> Sound | None:
        """The sound on the clock of the outputs; None before the first picture."""
        if not self._seconds:
            return None
        return replace(sound, time=sound.time + median(self._seconds))


class SoundTrack:
    """A track without gaps in a container: what is missing becomes silence.

    codec: ``aac`` or ``libopus``.
    """

    def __init__(self, container: OutputContainer, codec: str) -> None:
        stream: Any = container.add_stream(codec, RATE)
        stream.layout, stream.bit_rate = "stereo", _BITRATE
        self._stream = stream
        self._end = 0
        self._has_begun = False

    def reach(self, time: float) -> Iterator[Packet]:
        """Begins at the first picture's time; later, silence where no sound came for long."""
        if not self._has_begun:
            self._end, self._has_begun = round(time * RATE), True
        return self._silence(round((time - LATE) * RATE) - self._end)

    def write(self, sound: Sound) -> Iterator[Packet]:
        """Appends a piece; what would overlap with earlier ones is left out."""
        if not self._has_begun:
            return
        samples, gap = sound.samples, round(sound.time * RATE) - self._end
        if gap > _LEAP * RATE:
            yield from self._silence(gap)
        elif gap < -_LEAP * RATE:
            samples = samples[:, -gap:]
        yield from self._encode(samples)

    def close(self) -> Iterator[Packet]:
        """Flushes the encoder."""
        if self._has_begun:
            yield from self._stream.encode(None)

    def _silence(self, count: int) -> Iterator[Packet]:
        while count > 0:
            yield from self._encode(np.zeros((2, min(count, RATE)), np.float32))
            count -= RATE

    def _encode(self, samples: NDArray[np.float32]) -> Iterator[Packet]:
        if not samples.shape[1]:
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._end, Fraction(1, RATE)
        self._end += samples.shape[1]
        yield from self._stream.encode(frame)
