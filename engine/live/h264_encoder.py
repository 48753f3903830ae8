"""Frames as one H.264 stream in a container, as they come: for recordings and for streams."""

from __future__ import annotations

from fractions import Fraction

import av
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter

from fusematte.engine.frame import CLOCK, Frame
from fusematte.engine.media.av_frames import picture_of, range_of


class LiveEncoder:
    """A container with one H.264 stream, being written.

    Args:
        url: a URL, or a file as ``file:PATH``.
        format: libav's name of the container.
        like: a frame of the size and colour that all others have.
        rate: frames per second, for the encoder's planning; each frame keeps its own time.
        options: of libx264.
        protocol: libav's options of the URL's protocol.

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
    ) -> None:
        self._scaler = VideoReformatter()
        # H.264 cannot halve the chroma of odd sizes.
        self._layout = "yuv444p" if like.width % 2 or like.height % 2 else "yuv420p"
        self._container: OutputContainer = av.open(
            url, "w", format=format, options=protocol,
            container_options={"flush_packets": "1"},  # what is shown is on its way at once
        )  # fmt: skip
        try:
            self._stream = self._container.add_stream("libx264", rate, options)
            context = self._stream.codec_context
            context.width, context.height, context.pix_fmt = like.width, like.height, self._layout
            context.time_base = self._stream.time_base = CLOCK
            context.gop_size = max(1, round(2 * rate))  # a newcomer waits two seconds at most
            context.colorspace, context.color_range = like.color.matrix, range_of(like.color)
            self._container.start_encoding()
        except BaseException:
            self._container.close()
            raise

    def write(self, frame: Frame) -> None:
        """Encodes and sends a frame; its time is in units of ``CLOCK``."""
        picture = picture_of(frame)
        if picture.format.name != self._layout:
            picture = self._scaler.reformat(picture, format=self._layout)
        picture.pts, picture.time_base = frame.pts, CLOCK
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Writes what the encoder still holds, and the end."""
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
