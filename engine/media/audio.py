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
        context.layout = source.layout if source.layout.nb_channels <= 2 else _wide(source)
        context.bit_rate = _BITRATES[encoder] * context.layout.nb_channels
        self._unit = template.time_base or Fraction(1, source.sample_rate)
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
            yield from self._encode(frame)
        if packet is None and self._graph is not None:
            self._graph.push(None)
            yield from self._drain()
            yield from self._muxed(None)

    def _encode(self, frame: av.AudioFrame) -> Iterator[Packet]:
        if self._graph is None:
            self._graph = self._connect(frame)
        self._graph.push(frame)
        yield from self._drain()

    def _drain(self) -> Iterator[Packet]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, av.AudioFrame)
            yield from self._muxed(frame)

    def _muxed(self, frame: av.AudioFrame | None) -> Iterator[Packet]:
        for packet in self.stream.codec_context.encode(frame):
            packet.stream = self.stream
            yield packet

    def _connect(self, frame: av.AudioFrame) -> Graph:
        graph, context = Graph(), self.stream.codec_context
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name,
            time_base=frame.time_base or Fraction(1, frame.sample_rate),
        )
        rate = graph.add("aresample", f"{context.sample_rate}:async=1:min_hard_comp=0.02")
        format = graph.add(
            "aformat",
            f"sample_fmts={context.format.name}:channel_layouts={context.layout.name}"
            f":sample_rates={context.sample_rate}",
        )
        graph.link_nodes(source, rate, format, graph.add("abuffersink")).configure()
        return graph


def _rate_for(encoder: str, rate: int) -> int:
    """The sample rate of the encoder that is nearest to the source's."""
    able = av.Codec(encoder, "w").audio_rates or (rate,)
    return min(able, key=lambda own: (abs(own - rate), -own))


def _wide(source: av.AudioCodecContext) -> str:
    """A layout for more than two channels that all encoders here support."""
    return {6: "5.1", 8: "7.1"}.get(source.layout.nb_channels, "stereo")
