"""Live inputs: cameras, streams, and video files played in real time."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from fusematte.engine.errors import InputError, TruncatedInputError, UsageError, reason_of
from fusematte.engine.frame import PIXEL_FORMATS, Frame, displayed_size
from fusematte.engine.live.backoff import BackOff
from fusematte.engine.live.sound import Sound, SoundDecoder
from fusematte.engine.media.av_frames import frame_of
from fusematte.engine.media.reader import Packet, Reader
from fusematte.engine.media.sources import is_url
from fusematte.engine.pixels.fit import fit_frame

log = logging.getLogger(__name__)

DRIVERS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
"""libav's camera driver of each system."""
PERMISSIONS = {
    "linux": "add yourself to the group video (sudo usermod -aG video $USER) and log in again",
    "darwin": "allow the terminal to use the camera in System Settings, Privacy, Camera",
    "win32": "allow desktop apps to use the camera in Settings, Privacy, Camera",
}
"""What to do when a camera may not be used."""
NO_CAMERA = (
    "there is no camera here (--camera list would show it): connect one, or use a stream or a "
    "video in its place, as in --camera rtsp://192.168.1.7/door or --camera talk.mp4"
)
TIMEOUT = 3.0
"""Seconds without an answer or a picture after which a stream counts as lost.  Together with the
longest wait between retries and the probing of the stream, reconnecting takes less than five
seconds after a stream is back, even if the server vanished without closing the connection."""
RATE = Fraction(30)
"""Frames per second of inputs that do not declare a rate."""
_LOOK = {"analyzeduration": "500000"}
"""Microseconds that libav may probe a stream.  By default it takes seconds, and minutes for FLV
without audio.  The probed packets are decoded first, so that no key frame is lost."""
SCHEME_OPTIONS = {"rtsp": {"rtsp_transport": "tcp"}}
"""libav options by URL scheme, for inputs and outputs."""


class CaptureDevice(NamedTuple):
    """A camera: its name for ``--camera``, and the system's description."""

    name: str
    description: str


def list_cameras() -> list[CaptureDevice]:
    """The cameras of this machine."""
    found = av.device.enumerate_input_devices(_driver())
    return [CaptureDevice(device.name, device.description) for device in found]


class Camera(ABC):
    """A source of live frames; iterate over it, in one thread, until it ends.

    name: as given by the user.
    like: the first frame; all others have its size and pixel format.
    rate: frames per second.
    has_sound: whether sound comes with the frames.

    Frames are in display orientation: the rotation of a file is applied.
    """

    name: str
    like: Frame
    rate: Fraction
    has_sound: bool = False

    def __iter__(self) -> Iterator[Frame]:
        """The frames, each when it is due."""
        return (item for item in self.items() if isinstance(item, Frame))

    @abstractmethod
    def items(self) -> Iterator[Frame | Sound]:
        """The frames, each when it is due, and the sound, as it comes; both have the times of the
        source."""

    @abstractmethod
    def close(self) -> None:
        """Closes the source and ends the iteration."""


def open_camera(
    name: str, *, size: tuple[int, int] | None = None, rate: Fraction | None = None
) -> Camera:
    """Opens a camera by number or device name, a stream by URL, or a file.

    Args:
        size: (height, width) requested from a camera; rate: frames per second requested.

    Raises:
        InputError: it is missing, busy, or delivers no picture.
        UsageError: a size or a rate was given for a stream or a file.
    """
    path = Path(name)
    if is_url(name) or path.is_file():
        if size or rate:
            raise UsageError.at(name, "has its own size and rate; --size and --fps are for cameras")
        return LiveContainer(name) if is_url(name) else PacedFile(path)
    options = {"video_size": f"{size[1]}x{size[0]}"} if size else {}
    if rate:
        options["framerate"] = str(rate)
    return LiveContainer(name, driver=_driver(), options=options)


class PacedFile(Camera):
    """A video file, played once in real time."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._reader = Reader(path)
        self._decoder = _first_of(self._reader.audio_streams)
        self.has_sound = self._decoder is not None
        self._stop = threading.Event()
        self._items = self._reader.items()
        self._head = [*_up_to_frame(self._items)]
        first = self._head[-1]
        assert isinstance(first, Frame)
        self.like, self._first = _upright(first), first.time
        self.rate = Fraction(self._reader.frame_rate or RATE)

    def items(self) -> Iterator[Frame | Sound]:
        begun = time.perf_counter()
        with contextlib.closing(self._reader):
            for item in itertools.chain(self._head, self._rest()):
                if isinstance(item, Frame):
                    if self._stop.wait(_until(begun + float(item.time - self._first))):
                        return
                    yield _upright(item)
                elif self._decoder is not None and item.stream_index == self._decoder.index:
                    yield from self._decoder(item)

    def _rest(self) -> Iterator[Frame | Packet]:
        try:
            yield from self._items
        except TruncatedInputError as error:
            log.warning("%s", error)

    def close(self) -> None:
        self._stop.set()


class LiveContainer(Camera):
    """A camera or a stream, reopened with increasing delays when it is lost.

    driver: libav's camera driver; None for a URL.
    """

    def __init__(
        self, name: str, *, driver: str | None = None, options: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self._driver = driver
        self._options = options or {}
        self._stop = threading.Event()
        self._scaler = VideoReformatter()
        self._container, self._decoded = self._open()
        try:
            self._first = next(item for item in self._decoded if isinstance(item, av.VideoFrame))
        except (av.FFmpegError, StopIteration) as error:
            self._container.close()
            reason = reason_of(error) or "it ended"
            raise InputError.at(name, f"delivers no picture: {reason}") from error
        self.like = _upright(frame_of(self._first, self._scaler))
        self.rate = Fraction(self._container.streams.video[0].average_rate or RATE)
        self.has_sound = bool(self._container.streams.audio)

    def items(self) -> Iterator[Frame | Sound]:
        # The caller may stop at any frame: the connection is closed with the generator.
        try:
            yield from self._all()
        finally:
            self._container.close()

    def _all(self) -> Iterator[Frame | Sound]:
        pending: av.VideoFrame | None = self._first
        while not self._stop.is_set():
            reason = "it ended"
            try:
                while not self._stop.is_set():
                    item = pending or next(self._decoded)
                    pending = None
                    yield item if isinstance(item, Sound) else self._conform(item)
            except StopIteration:
                pass
            except av.FFmpegError as error:
                reason = reason_of(error)
            self._container.close()
            if not self._stop.is_set():
                log.warning("%s: lost (%s); reconnecting", self.name, reason)
                self._reopen()

    def close(self) -> None:
        self._stop.set()

    def _reopen(self) -> None:
        waits = BackOff()
        while not self._stop.wait(waits.failed(0.0)):
            with contextlib.suppress(InputError):
                self._container, self._decoded = self._open()
                log.warning("%s: is back", self.name)
                return

    def _open(self) -> tuple[InputContainer, Iterator[av.VideoFrame | Sound]]:
        scheme = SCHEME_OPTIONS.get(self.name.partition(":")[0].lower(), {})
        first: Exception | None = None
        for options in camera_options(self._driver, self._options):
            try:
                container = av.open(
                    device_file(self.name) if self._driver else self.name,
                    format=self._driver,
                    options={**scheme, **options},
                    container_options=_LOOK,
                    timeout=None if self._driver else TIMEOUT,
                )
                break
            except (av.FFmpegError, OSError, ValueError) as error:
                first = first or error
        else:
            assert first is not None
            raise self._refusal(first) from first
        if not container.streams.video:
            container.close()
            raise InputError.at(self.name, "has no video")
        return container, _decoded(container)

    def _refusal(self, error: Exception) -> InputError:
        if isinstance(error, av.error.ProtocolNotFoundError):
            return InputError.at(self.name, "this build of PyAV does not support the protocol")
        if self._driver is None:
            return InputError.at(
                self.name, f"cannot be reached: {reason_of(error)}", remedy="check the URL"
            )
        known = ", ".join(device.name for device in list_cameras())
        hint = "check --size and --fps; " if self._options else ""
        if known and isinstance(error, PermissionError):
            hint = f"{PERMISSIONS.get(sys.platform, '')}; "
        elif known and getattr(error, "errno", None) == errno.EBUSY:
            hint = "close the program that uses it; "
        found = f"available cameras: {known} (see --camera list)" if known else NO_CAMERA
        return InputError(
            f"camera {self.name!r} cannot be opened: {reason_of(error)}",
            path=self.name,
            remedy=hint + found,
        )

    def _conform(self, picture: av.VideoFrame) -> Frame:
        """The picture in display orientation, with the size and format of the first one: a stream
        may be different after it was lost."""
        frame, like = _upright(frame_of(picture, self._scaler)), self.like
        if (frame.planes[0].shape, frame.format, frame.color) == (
            like.planes[0].shape,
            like.format,
            like.color,
        ):
            return frame
        timed = replace(like, pts=frame.pts, time_base=frame.time_base, duration=frame.duration)
        return timed.with_planes(fit_frame(frame, like))


def _first_of(streams: Sequence[av.AudioStream]) -> SoundDecoder | None:
    return SoundDecoder(streams[0]) if streams else None


def _up_to_frame(items: Iterator[Frame | Packet]) -> Iterator[Frame | Packet]:
    for item in items:
        yield item
        if isinstance(item, Frame):
            return


def _decoded(container: InputContainer) -> Iterator[av.VideoFrame | Sound]:
    """The pictures of the first video stream, and the sound of the first audio stream."""
    video, decoder = container.streams.video[0], _first_of(container.streams.audio)
    for packet in container.demux([video, *container.streams.audio[:1]]):
        if decoder is not None and packet.stream_index == decoder.index:
            yield from decoder(packet)
        else:
            yield from video.decode(packet)


def camera_options(driver: str | None, asked: dict[str, str]) -> list[dict[str, str]]:
    """libav options to try in turn, the best first; drivers refuse unsupported ones.

    Over USB, raw video of larger sizes is limited to 5 to 10 fps, MJPEG is not.  macOS cameras only
    support integer rates: 30 instead of 29.97.
    """
    if driver == "v4l2":
        return [{"input_format": "mjpeg", **asked}, asked]
    if driver == "dshow":
        return [{"vcodec": "mjpeg", **asked}, asked]
    if driver == "avfoundation":
        rate = Fraction(asked.get("framerate", RATE))
        return [
            {**asked, "framerate": str(rate)},
            {**asked, "framerate": str(round(rate))},
            {**asked, "framerate": "30"},
        ]
    return [asked]


def _driver() -> str:
    return DRIVERS.get(sys.platform, "v4l2")


def device_file(name: str) -> str:
    """The libav device of a camera, given by number or name."""
    if sys.platform == "linux":
        return f"/dev/video{name}" if name.isdecimal() else name
    if sys.platform != "win32":
        return name
    if name.isdecimal():  # dshow only has names
        cameras = list_cameras()
        if int(name) < len(cameras):
            name = cameras[int(name)].description or cameras[int(name)].name
    return f"video={name}"


def _upright(frame: Frame) -> Frame:
    """The frame in display orientation; in 4:2:0 if it has to be rotated."""
    if not frame.rotation:
        return frame
    format = PIXEL_FORMATS["yuv420p" if frame.format.bits == 8 else "yuv420p10le"]
    y, u, v = (np.empty(shape, format.dtype) for shape in format.shapes(*displayed_size(frame)))
    target = replace(frame, planes=(y, u, v), format=format, rotation=0, aspect=Fraction(1))
    return target.with_planes(fit_frame(frame, target))


def _until(moment: float) -> float:
    return max(0.0, moment - time.perf_counter())
