"""Streaming to a server by RTMP, SRT, RTSP, WHIP or MPEG-TS."""

from __future__ import annotations

import logging
import os
import time
from fractions import Fraction

from fusematte.engine.errors import OutputError, UsageError
from fusematte.engine.frame import Frame
from fusematte.engine.live.backoff import BackOff
from fusematte.engine.live.cameras import SCHEME_OPTIONS, TIMEOUT
from fusematte.engine.live.outputs import Outlet, check_even
from fusematte.engine.live.sound import Sound
from fusematte.engine.live.stream_process import LinkError, Uplink
from fusematte.engine.live.whip_identity import Identity

log = logging.getLogger(__name__)
_FORMATS = {
    **dict.fromkeys(("rtmp", "rtmps"), "flv"),
    **dict.fromkeys(("srt", "udp", "tcp"), "mpegts"),
    "rtsp": "rtsp",
    **dict.fromkeys(("http", "https"), "whip"),
}
"""The container of each protocol."""
WHIP_TOKEN = "FUSEMATTE_WHIP_TOKEN"
"""Environment variable with a WHIP server's bearer token, which is not safe on a command line."""


class Stream(Outlet):
    """A stream to a URL (RTMP, SRT, RTSP, WHIP, MPEG-TS over UDP or TCP); it reconnects when lost.

    Frames are dropped while it is disconnected; later frames keep their timestamps, which never go
    back.  With ``has_sound`` it carries sound: AAC, over WHIP Opus.

    Raises:
        UsageError: the URL has an unknown protocol.
        OutputError: WHIP does not support the frame size, or a package is missing.
    """

    def __init__(
        self,
        url: str,
        like: Frame,
        rate: Fraction,
        *,
        has_sound: bool = False,
    ) -> None:
        self.name = url
        scheme = url.partition(":")[0].lower()
        if scheme not in _FORMATS:
            raise UsageError.at(url, "unknown protocol", remedy=f"use one of {', '.join(_FORMATS)}")
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23",
                   "maxrate": "6M", "bufsize": "6M"}  # fmt: skip
        protocol = dict(SCHEME_OPTIONS.get(scheme, {}))
        self._identity: Identity | None = None
        if _FORMATS[scheme] == "whip":
            check_even(url, like)
            options["profile"] = "baseline"  # supported by all WebRTC peers
            self._identity = Identity()
            protocol |= self._identity.options
            if token := os.environ.get(WHIP_TOKEN):
                protocol["authorization"] = token
        self._stream = url, _FORMATS[scheme], like, rate, options, protocol, has_sound
        self._waits = BackOff()
        self._link = Uplink(TIMEOUT)
        self._is_open = self._lost = False

    def show(self, frame: Frame) -> None:
        if not self._is_open and not self._waits.is_due(time.monotonic()):
            return
        try:
            if not self._is_open:
                self._connect()
            self._link.write(frame)
        except LinkError as error:
            self._lose(error)

    def hear(self, sound: Sound) -> None:
        if self._is_open:
            try:
                self._link.write(sound)
            except LinkError as error:
                self._lose(error)

    def close(self) -> None:
        self._link.close()
        if self._identity is not None:
            self._identity.close()

    def _connect(self) -> None:
        self._link.open(*self._stream)
        if self._lost:
            log.warning("%s: is back", self.name)
        self._is_open, self._lost = True, False
        self._waits.succeeded()

    def _lose(self, error: LinkError) -> None:
        if error.is_unknown:
            raise OutputError.at(
                self.name,
                "this build of PyAV does not support the protocol",
                remedy="use rtmp, or pipe to ffmpeg",
            ) from error
        self._is_open = False
        self._waits.failed(time.monotonic())
        if not self._lost:
            log.warning("%s: cannot be reached: %s; reconnecting", self.name, error)
        self._lost = True
