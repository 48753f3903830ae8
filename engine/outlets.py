"""Where live pictures go: a virtual camera, a window, a file, a stream."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter

from fusematte.engine.backoff import BackOff
from fusematte.engine.camera import URL
from fusematte.engine.errors import FuseMatteError, OutputError, UsageError
from fusematte.engine.frame import Frame
from fusematte.engine.pictures import picture_of, range_of, rgb_of
from fusematte.engine.pipeline import Relay, Stopped

log = logging.getLogger(__name__)

WAITING = 15
"""Frames that may wait for a slow output before it misses some."""
_TIMEOUT = 5.0
"""Seconds without an answer after which a stream's other end counts as gone."""
_FORMATS = {
    **dict.fromkeys(("rtmp", "rtmps"), "flv"),
    **dict.fromkeys(("srt", "udp", "tcp"), "mpegts"),
    "rtsp": "rtsp",
    **dict.fromkeys(("http", "https"), "whip"),
}
"""The container that a protocol carries."""
_CLOCK = Fraction(1, 90000)

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
        if like.width % 2 or like.height % 2:
            raise OutputError(f"{self.name}: needs even sizes, not {like.width}x{like.height}")
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


class _Encoder:
    """A container with one H.264 stream, being written."""

    def __init__(
        self, url: str, format: str | None, like: Frame, rate: Fraction, options: dict[str, str]
    ) -> None:
        self.container: OutputContainer = av.open(
            url, "w", format=format, timeout=_TIMEOUT if URL.match(url) else None,
            container_options={"flush_packets": "1"},  # what is shown is on its way at once
        )  # fmt: skip
        try:
            self._stream = self.container.add_stream("libx264", rate, options)
            context = self._stream.codec_context
            context.width, context.height, context.pix_fmt = like.width, like.height, "yuv420p"
            if like.width % 2 or like.height % 2:
                context.pix_fmt = "yuv444p"  # H.264 cannot halve the chroma of odd sizes
            context.time_base = self._stream.time_base = _CLOCK
            context.gop_size = max(1, round(2 * rate))  # a newcomer waits two seconds at most
            context.colorspace, context.color_range = like.color.matrix, range_of(like.color)
            self.container.start_encoding()
        except BaseException:
            self.container.close()
            raise

    def write(self, picture: av.VideoFrame) -> None:
        self.container.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Writes what the encoder still holds, and the end."""
        try:
            self.container.mux(self._stream.encode(None))
        finally:
            self.container.close()


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
        self._scaler = VideoReformatter()
        options = {"preset": "veryfast", "crf": "20"}
        with self._failing():
            self._encoder = _Encoder(
                f"file:{self._part}", formats[path.suffix.lower()], like, rate, options
            )
        self._begin: int | None = None

    def show(self, frame: Frame) -> None:
        self._begin = frame.pts if self._begin is None else self._begin
        with self._failing():
            self._encoder.write(_picture(frame, self._scaler, frame.pts - self._begin))

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
    """

    def __init__(
        self, url: str, like: Frame, rate: Fraction, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self._like, self._rate, self._clock = url, like, rate, clock
        scheme = url.partition(":")[0].lower()
        if scheme not in _FORMATS:
            raise UsageError(f"{url}: unknown protocol; use one of {', '.join(_FORMATS)}")
        self._format = _FORMATS[scheme]
        self._scaler = VideoReformatter()
        self._waits = BackOff()
        self._encoder: _Encoder | None = None
        self._lost = False

    def show(self, frame: Frame) -> None:
        if self._encoder is None and not self._connect():
            return
        assert self._encoder is not None
        try:
            self._encoder.write(_picture(frame, self._scaler, frame.pts))
        except (av.FFmpegError, OSError) as error:
            self._lose(error)

    def close(self) -> None:
        if self._encoder is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                self._encoder.close()

    def _connect(self) -> bool:
        if not self._waits.is_due(self._clock()):
            return False
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23",
                   "maxrate": "6M", "bufsize": "6M"}  # fmt: skip
        try:
            self._encoder = _Encoder(self.name, self._format, self._like, self._rate, options)
        except av.error.ProtocolNotFoundError as error:
            raise OutputError(
                f"{self.name}: the libav that PyAV brings here has not this protocol; stream by "
                "rtmp, or pipe to ffmpeg"
            ) from error
        except (av.FFmpegError, OSError, ValueError) as error:
            self._lose(error)
            return False
        if self._lost:
            log.warning("%s: is back", self.name)
        self._lost = False
        self._waits.succeeded()
        return True

    def _lose(self, error: Exception) -> None:
        self.close()
        self._encoder = None
        self._waits.failed(self._clock())
        if not self._lost:
            reason = getattr(error, "strerror", None) or error
            log.warning("%s: cannot be reached: %s; trying again", self.name, reason)
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


def _picture(frame: Frame, scaler: VideoReformatter, pts: int) -> av.VideoFrame:
    """The frame as the encoders here take it, in units of their clock."""
    picture = picture_of(frame)
    layout = "yuv444p" if frame.width % 2 or frame.height % 2 else "yuv420p"
    if picture.format.name != layout:
        picture = scaler.reformat(picture, format=layout)
    picture.pts, picture.time_base = pts, _CLOCK
    return picture
