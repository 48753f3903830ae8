"""NDI: a source that OBS, vMix, Resolume and others find in the local network."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Any

import numpy as np

from fusematte.engine.errors import OutputError, first_line
from fusematte.engine.frame import Frame
from fusematte.engine.live.outputs import Outlet
from fusematte.engine.live.sound import RATE, Sound
from fusematte.engine.media.av_frames import rgba_of

log = logging.getLogger(__name__)

SCHEME = "ndi://"
PIECE = RATE // 50
"""Samples sent at a time: cyndilib mixes up the channels of pieces of other lengths."""


class NdiSource(Outlet):
    """An NDI source, through cyndilib; it has an alpha if the frames have one.

    url: ``ndi://NAME``.
    has_sound: whether it sends sound.

    Raises:
        OutputError: cyndilib is missing, or NDI cannot start.
    """

    def __init__(self, url: str, like: Frame, rate: Fraction, *, has_sound: bool = False) -> None:
        self.name = url
        self._sound = np.zeros((2, 0), np.float32) if has_sound else None
        try:
            from cyndilib.audio_frame import AudioSendFrame
            from cyndilib.audio_reference import AudioReference
            from cyndilib.sender import Sender
            from cyndilib.video_frame import VideoSendFrame
            from cyndilib.wrapper.ndi_structs import FourCC
        except ImportError as error:
            raise OutputError.at(
                url, "needs cyndilib", remedy="pip install 'fusematte[ndi]'", option="output"
            ) from error
        # Frames come when they are due: NDI need not hold them back.
        name = url.removeprefix(SCHEME) or "FuseMatte"
        self._sender: Any = Sender(name, clock_video=False, clock_audio=False)
        picture = VideoSendFrame()
        picture.set_resolution(like.width, like.height)
        picture.set_frame_rate(rate)
        picture.set_fourcc(FourCC.RGBA)
        self._sender.set_video_frame(picture)
        if has_sound:
            piece = AudioSendFrame(PIECE)
            piece.sample_rate, piece.num_channels = RATE, 2
            piece.reference_level = AudioReference.dBFS_smpte
            self._sender.set_audio_frame(piece)
        try:
            self._sender.open()
        except RuntimeError as error:
            raise OutputError.at(url, f"NDI cannot start: {first_line(error)}") from error
        log.info("%s: NDI source %s", url, self._sender.name)

    def show(self, frame: Frame) -> None:
        self._sender.write_video(rgba_of(frame).reshape(-1))

    def hear(self, sound: Sound) -> None:
        if self._sound is None:
            return
        waiting = np.concatenate([self._sound, sound.samples], axis=1)
        whole = waiting.shape[1] // PIECE * PIECE
        for begin in range(0, whole, PIECE):
            self._sender.write_audio(np.ascontiguousarray(waiting[:, begin : begin + PIECE]))
        self._sound = waiting[:, whole:]

    def close(self) -> None:
        self._sender.close()
