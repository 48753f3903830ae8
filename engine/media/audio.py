"""Conversion of audio that a container cannot store, to the container's usual codec."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, TypeAlias, get_args

import av
from av.container import OutputContainer
from av.filter import Graph

Packet: TypeAlias = "av.Packet[Any]"

AudioMode = Literal["convert", "copy", "none"]
"""Audio is copied, or converted if necessary; copied, or an error if that is impossible; left
out."""
AUDIO_MODES: tuple[AudioMode, ...] = get_args(AudioMode)

USUAL = {
    "mp4": "aac", "mov": "aac", "mpegts": "aac", "flv": "aac", "avi": "libmp3lame",
    "webm": "libopus", "matroska": "libopus", "nut": "libopus",
}  # fmt: skip
"""libav's encoder for each container (by its name)."""

_BITRATES = {"aac": 96_000, "libmp3lame": 96_000, "libopus": 64_000}
"""Bits per second and channel, high enough to be transparent."""
_OPUS_RATE = 48_000


def audio_mode(value: AudioMode | bool) -> AudioMode:
    """The mode; True and False stand for "convert" and "none"."""
    if isinstance(value, bool):
        return "convert" if value else "none"
    return value


class AudioConverter:
    """Converts the packets of one stream; ``stream`` is the output stream.

    Timestamps are kept: gaps become silence, and the encoder's delay is stored in the container,
    so that players skip it.
    """

    def __init__(self, container: OutputContainer, template: av.AudioStream, encoder: str) -> None:
        source = template.codec_context
        self._decoder = source
        rate = _OPUS_RATE if encoder == "libopus" else _rate_for(encoder, source.sample_rate)
        self.stream: av.AudioStream = container.add_stream(encoder, rate=rate)  # type: ignore[assignment]
        context: Any = self.stream.codec_context
        context.layout = _layout(encoder, source.layout.nb_channels)
        context.bit_rate = _BITRATES[encoder] * context.layout.nb_channels
        self._unit = template.time_base or Fraction(1, source.sample_rate)
        self._resampler = self._new_resampler()
        self._graph: Graph | None = None

    def __call__(self, packet: Packet | None, shift: int = 0) -> Iterator[Packet]:
        """The packets that are ready; None flushes.

        shift: subtracted from timestamps, in units of the packet's time base.

        A packet that cannot be decoded is skipped and becomes silence.
        """
        try:
            frames = self._decoder.decode(packet)
        except av.FFmpegError:
            frames = []
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= round(shift * self._unit / (frame.time_base or self._unit))
            for part in self._resampled(frame):
                yield from self._encode(part)
        if packet is None:
            for part in self._resampler.resample(None):
                yield from self._encode(part)
        if packet is None and self._graph is not None:
            yield from self._encode(None)
            yield from self._muxed(None)

    def _resampled(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
        """The frame in the format, layout and rate of the encoder."""
        try:
            return self._resampler.resample(frame)
        except ValueError:  # the source changes them here
            rest = self._resampler.resample(None)
            self._resampler = self._new_resampler()
            return rest + self._resampler.resample(frame)

    def _encode(self, frame: av.AudioFrame | None) -> Iterator[Packet]:
        if self._graph is None:
            assert frame is not None
            self._graph = self._connect(frame)
        self._graph.push(frame)
        while True:
            try:
                whole = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(whole, av.AudioFrame)
            yield from self._muxed(whole)

    def _muxed(self, frame: av.AudioFrame | None) -> Iterator[Packet]:
        for packet in self.stream.codec_context.encode(frame):
            packet.stream = self.stream
            yield packet

    def _new_resampler(self) -> av.AudioResampler:
        context = self.stream.codec_context
        return av.AudioResampler(context.format, context.layout, context.sample_rate)

    def _connect(self, frame: av.AudioFrame) -> Graph:
        """A filter that turns gaps into silence."""
        graph = Graph()
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name,
            time_base=frame.time_base or Fraction(1, frame.sample_rate),
        )
        gaps = graph.add("aresample", "async=1:min_hard_comp=0.02")
        graph.link_nodes(source, gaps, graph.add("abuffersink")).configure()
        return graph


def _rate_for(encoder: str, rate: int) -> int:
    """The sample rate of the encoder that is nearest to the source's."""
    able = av.Codec(encoder, "w").audio_rates or (rate,)
    return min(able, key=lambda own: (abs(own - rate), -own))


def _layout(encoder: str, channels: int) -> str:
    """The layout for so many channels; encoders refuse channels without names."""
    able = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
    if encoder == "libmp3lame":
        channels = min(channels, 2)
    return next((able[count] for count in able if count >= channels), "stereo")
