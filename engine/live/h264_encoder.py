"""A live encoder, H.264 and AAC or Opus, for recordings and streams."""

from __future__ import annotations

from fractions import Fraction

import av
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter

from fusematte.engine.frame import CLOCK, Frame
from fusematte.engine.live.sound import Sound, SoundTrack
from fusematte.engine.media.av_frames import picture_of, range_of


class LiveEncoder:
    """Writes a container with one H.264 stream, and with one of sound if ``has_sound``.

    Args:
        url: a URL, or a file as ``file:PATH``.
        format: libav's name for the container.
        like: a frame with the size and colour tags of all frames.
        rate: frames per second, for rate control; frames keep their timestamps.
        options: options of libx264.
        protocol: libav options for the URL's protocol.

    Raises:
        av.FFmpegError, OSError: it cannot be opened or written.
    """

    def __init__(
        self,
        url: str,
        format: str,
        like: Frame,
        rate: Fraction,
        options: dict[str, str],
        protocol: dict[str, str],
        has_sound: bool = False,
    ) -> None:
        self._scaler = VideoReformatter()
        # H.264 cannot subsample the chroma of odd sizes.
        self._layout = "yuv444p" if like.width % 2 or like.height % 2 else "yuv420p"
        self._container: OutputContainer = av.open(
            url, "w", format=format, options=protocol,
            container_options={"flush_packets": "1"},  # packets are sent at once
        )  # fmt: skip
        try:
            self._stream = self._container.add_stream("libx264", rate, options)
            context = self._stream.codec_context
            context.width, context.height, context.pix_fmt = like.width, like.height, self._layout
            context.time_base = self._stream.time_base = CLOCK
            context.gop_size = max(1, round(2 * rate))  # new viewers wait at most two seconds
            context.colorspace, context.color_range = like.color.matrix, range_of(like.color)
            codec = "libopus" if format == "whip" else "aac"
            self._sound = SoundTrack(self._container, codec) if has_sound else None
            self._container.start_encoding()
        except BaseException:
            self._container.close()
            raise

    def write(self, frame: Frame) -> None:
        """Encodes and sends a frame; its pts is in units of ``CLOCK``."""
        picture = picture_of(frame)
        if picture.format.name != self._layout:
            picture = self._scaler.reformat(picture, format=self._layout)
        picture.pts, picture.time_base = frame.pts, CLOCK
        self._container.mux(self._stream.encode(picture))
        if self._sound is not None:
            self._container.mux([*self._sound.reach(float(frame.pts * CLOCK))])

    def hear(self, sound: Sound) -> None:
        """Encodes and sends a piece of sound; before the first frame it is left out."""
        if self._sound is not None:
            self._container.mux([*self._sound.write(sound)])

    def close(self) -> None:
        """Flushes the encoder and completes the container."""
        try:
            self._container.mux(self._stream.encode(None))
            if self._sound is not None:
                self._container.mux([*self._sound.close()])
        finally:
            self._container.close()
