"""A virtual camera for other programs."""

from __future__ import annotations

import logging
import sys
from fractions import Fraction

import numpy as np
from av.video.reformatter import VideoReformatter

from fusematte.engine.errors import OutputError, first_line
from fusematte.engine.frame import Frame
from fusematte.engine.live.outputs import Outlet, check_even
from fusematte.engine.media.av_frames import picture_of, range_of

log = logging.getLogger(__name__)

HINTS = {
    "linux": "install v4l2loopback and load it: sudo modprobe v4l2loopback exclusive_caps=1 "
    "card_label=FuseMatte",
    "darwin": "install OBS and start and stop its virtual camera once",
    "win32": "install OBS and start and stop its virtual camera once",
}


class VirtualCamera(Outlet):
    """A virtual camera (v4l2loopback on Linux, OBS elsewhere), through pyvirtualcam.

    Raises:
        OutputError: pyvirtualcam or the device is missing; the message says what to install.
    """

    def __init__(self, like: Frame, rate: Fraction, device: str | None = None) -> None:
        self.name = f"virtual camera {device or ''}".strip()
        try:
            import pyvirtualcam
        except ImportError as error:
            raise OutputError(
                f"{self.name}: needs pyvirtualcam",
                option="virtual_camera",
                remedy="pip install 'fusematte[live]'",
            ) from error
        check_even(self.name, like)
        try:
            self._camera = pyvirtualcam.Camera(
                like.width, like.height, float(rate), device=device,
                fmt=pyvirtualcam.PixelFormat.I420,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            hint = HINTS.get(sys.platform, "see the documentation of pyvirtualcam")
            raise OutputError(
                f"{self.name}: not available ({first_line(error)})",
                option="virtual_camera",
                remedy=hint,
            ) from error
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
            raise OutputError(
                f"{self.name}: was removed: {error}", option="virtual_camera"
            ) from error

    def close(self) -> None:
        self._camera.close()
