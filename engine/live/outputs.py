"""Where live pictures go: a virtual camera, a window, a file, a stream."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from fusematte.engine.errors import FuseMatteError, OutputError, UsageError
from fusematte.engine.frame import Frame
from fusematte.engine.live.backoff import BackOff
from fusematte.engine.live.cameras import SCHEME_OPTIONS, TIMEOUT
from fusematte.engine.live.h264_encoder import LiveEncoder
from fusematte.engine.live.stream_process import LinkError, Uplink
from fusematte.engine.live.whip_identity import Identity
from fusematte.engine.media.av_frames import picture_of, range_of, rgb_of
from fusematte.engine.pipeline import Relay, Stopped

log = logging.getLogger(__name__)

WAITING = 15
"""Frames that may wait for a slow output before it misses some."""
_FORMATS = {
    **dict.fromkeys(("rtmp", "rtmps"), "flv"),
    **dict.fromkeys(("srt", "udp", "tcp"), "mpegts"),
    "rtsp": "rtsp",
    **dict.fromkeys(("http", "https"), "whip"),
}
"""The container that a protocol carries."""
WHIP_TOKEN = "FUSEMATTE_WHIP_TOKEN"
"""Environment variable with a WHIP server's bearer token; a command line is no place for it."""
VIRTUAL_CAMERA_HINT = {
    "linux": "install v4l2loopback and load it: sudo modprobe v4l2loopback exclusive_caps=1 "
    "card_label=FuseMatte",
    "darwin": "install OBS and start and stop its virtual camera once",
    "win32": "install OBS and start and stop its virtual camera once",
}


class Outlet(ABC):
    """Shows frames, in the order they come.

    ``show`` raises ``OutputError`` when there is no use in going on; what may pass, a stream whose
    other end is away, it deals with itself.  Frames all have the size of the one it was made for.
    """

    name: str

    @abstractmethod
    def show(self, frame: Frame) -> None:
        """Takes a frame; does not keep it."""

    @abstractmethod
    def close(self) -> None:
        """Completes what was written, frees the device."""


def _check_even(name: str, like: Frame) -> None:
    """Refuses sizes whose chroma cannot be halved."""
    if like.width % 2 or like.height % 2:
        raise OutputError(f"{name}: needs even sizes, not {like.width}x{like.height}")


class VirtualCamera(Outlet):
    """A camera that other programs see (v4l2loopback on Linux, OBS elsewhere), by pyvirtualcam.

    Raises:
        OutputError: pyvirtualcam or the device is missing; the message says what to install.
    """

    def __init__(self, like: Frame, rate: Fraction, device: str | None = None) -> None:
        self.name = f"virtual camera {device or ''}".strip()
        try:
            import pyvirtualcam
        except ImportError as error:
            raise OutputError(
                f"{self.name}: needs pyvirtualcam: pip install 'fusematte[live]'"
            ) from error
        _check_even(self.name, like)
        try:
            self._camera = pyvirtualcam.Camera(
                like.width, like.height, float(rate), device=device,
                fmt=pyvirtualcam.PixelFormat.I420,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            hint = VIRTUAL_CAMERA_HINT.get(sys.platform, "see the documents of pyvirtualcam")
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise OutputError(f"{self.name}: there is none ({reason}); {hint}") from error
        self._scaler = VideoReformatter()
        log.info("%s: %s", self.name, self._camera.device)

    def show(self, frame: Frame) -> None:
        picture = self._scaler.reformat(
            picture_of(frame),
            format="yuv420p",
            src_color_range=range_of(frame.color),
            dst_color_range=1,
        )
        try:
            self._camera.send(np.ascontiguousarray(picture.to_ndarray()).reshape(-1))
        except (RuntimeError, OSError) as error:
            raise OutputError(f"{self.name}: is gone: {error}") from error

    def close(self) -> None:
        self._camera.close()


class Preview(Outlet):
    """A window; ``key`` is the last key pressed in it.  Its methods want one and the same thread.

    Raises:
        OutputError: this OpenCV has no windows, or there is no display.
    """

    def __init__(self, title: str = "FuseMatte") -> None:
        self.name = "preview"
        self.key = ""
        self._title = title
        if "GUI:                           NONE" in cv2.getBuildInformation():
            raise OutputError(
                "preview: this OpenCV has no windows; replace it: pip uninstall "
                "opencv-python-headless, then pip install --force-reinstall opencv-python"
            )
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise OutputError("preview: there is no display; set DISPLAY or leave --preview out")
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise OutputError(f"preview: no window can be opened: {error}") from error

    def show(self, frame: Frame) -> None:
        cv2.imshow(self._title, rgb_of(frame)[..., ::-1])
        code = cv2.waitKey(1)
        self.key = chr(code & 0xFF) if code >= 0 else ""

    def close(self) -> None:
        with contextlib.suppress(cv2.error):
            cv2.destroyWindow(self._title)


class Recording(Outlet):
    """A file, called PATH.part until it is complete.

    Raises:
        UsageError, OutputError: it is no video file's name, or cannot be written.
    """

    def __init__(self, path: Path, like: Frame, rate: Fraction) -> None:
        self.name, self._path = str(path), path
        self._part = path.with_name(f"{path.name}.part")
        formats = {".mkv": "matroska", ".mp4": "mp4", ".mov": "mov", ".ts": "mpegts", ".flv": "flv"}
        if path.suffix.lower() not in formats:
            raise UsageError(f"{path}: unknown kind of video file; use one of {', '.join(formats)}")
        options = {"preset": "veryfast", "crf": "20"}
        with self._failing():
            self._encoder = LiveEncoder(
                f"file:{self._part}", formats[path.suffix.lower()], like, rate, options, {}
            )
        self._begin: int | None = None

    def show(self, frame: Frame) -> None:
        self._begin = frame.pts if self._begin is None else self._begin
        with self._failing():
            self._encoder.write(replace(frame, pts=frame.pts - self._begin))

    def close(self) -> None:
        with self._failing():
            self._encoder.close()
            if self._begin is None:
                self._part.unlink()
            else:
                self._part.replace(self._path)

    @contextlib.contextmanager
    def _failing(self) -> Any:  # noqa: ANN401
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"{self.name}: cannot be written: {reason}") from error


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
            _check_even(url, like)
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


class Sender:
    """An outlet in a thread of its own: a slow one misses frames and holds nobody up.

    error: why it has given up, if it has.
    """

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.missed = 0
        self.error: FuseMatteError | None = None
        self._relay = Relay((f"output {outlet.name}", self._show), waiting=WAITING)

    def show(self, frame: Frame) -> None:
        """Hands a frame over; returns at once."""
        with contextlib.suppress(Stopped):
            self.missed += self._relay.push(frame)

    def close(self) -> None:
        """Ends the thread and closes the outlet."""
        self._relay.close()
        self.outlet.close()

    def _show(self, frame: Frame) -> None:
        try:
            self.outlet.show(frame)
        except FuseMatteError as error:
            self.error = error
            raise Stopped from error
