"""A stream to a server: RTMP, SRT, RTSP, WHIP, MPEG-TS."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from fractions import Fraction

from fusematte.engine.errors import OutputError, UsageError
from fusematte.engine.frame import Frame
from fusematte.engine.live.backoff import BackOff
from fusematte.engine.live.cameras import SCHEME_OPTIONS, TIMEOUT
from fusematte.engine.live.outputs import Outlet, check_even
from fusematte.engine.live.stream_process import LinkError, Uplink
from fusematte.engine.live.whip_identity import Identity

log = logging.getLogger(__name__)
_FORMATS = {
    **dict.fromkeys(("rtmp", "rtmps"), "flv"),
    **dict.fromkeys(("srt", "udp", "tcp"), "mpegts"),
    "rtsp": "rtsp",
    **dict.fromkeys(("http", "https"), "whip"),
}
"""The container that a protocol carries."""
WHIP_TOKEN = "FUSEMATTE_WHIP_TOKEN"
"""Environment variable with a WHIP server's bearer token; a command line is no place for it."""


class Stream(Outlet):
    """A stream to a URL (RTMP, SRT, RTSP, WHIP, MPEG-TS over UDP or TCP), opened again when lost.

    While the other end is away frames are passed over; what comes later keeps its time, so that
    timestamps never go back.

    Raises:
        UsageError: it is no URL of a known protocol.
        OutputError: WHIP cannot send such a picture, or needs what is not installed.
    """

    def __init__(
        self, url: str, like: Frame, rate: Fraction, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self._clock = url, clock
        scheme = url.partition(":")[0].lower()
        if scheme not in _FORMATS:
            raise UsageError(f"{url}: unknown protocol; use one of {', '.join(_FORMATS)}")
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23",
                   "maxrate": "6M", "bufsize": "6M"}  # fmt: skip
        protocol = dict(SCHEME_OPTIONS.get(scheme, {}))
        self._identity: Identity | None = None
        if _FORMATS[scheme] == "whip":
            check_even(url, like)
            options["profile"] = "baseline"  # the one that all ends of WebRTC know
            self._identity = Identity()
            protocol |= self._identity.options
            if token := os.environ.get(WHIP_TOKEN):
                protocol["authorization"] = token
        self._stream = url, _FORMATS[scheme], like, rate, options, protocol
        self._waits = BackOff()
        self._link = Uplink(TIMEOUT)
        self._is_open = self._lost = False

    def show(self, frame: Frame) -> None:
        if not self._is_open and not self._waits.is_due(self._clock()):
            return
        try:
            if not self._is_open:
                self._connect()
            self._link.write(frame)
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
            raise OutputError(
                f"{self.name}: the libav that PyAV brings here has not this protocol; stream by "
                "rtmp, or pipe to ffmpeg"
            ) from error
        self._is_open = False
        self._waits.failed(self._clock())
        if not self._lost:
            log.warning("%s: cannot be reached: %s; trying again", self.name, error)
        self._lost = True
