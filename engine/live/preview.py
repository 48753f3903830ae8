"""A preview window."""

from __future__ import annotations

import contextlib
import os
import sys

import cv2

from fusematte.engine.errors import OutputError
from fusematte.engine.frame import Frame
from fusematte.engine.live.outputs import Outlet
from fusematte.engine.media.av_frames import rgb_of


class Preview(Outlet):
    """A window; ``key`` is the last key pressed in it.  Use it from one thread only.

    Raises:
        OutputError: this build of OpenCV has no windows, or there is no display.
    """

    def __init__(self, title: str = "FuseMatte") -> None:
        self.name = "preview"
        self.key = ""
        self._title = title
        if "GUI:                           NONE" in cv2.getBuildInformation():
            raise OutputError(
                "--preview: this build of OpenCV has no windows; pip uninstall "
                "opencv-python-headless, then pip install --force-reinstall opencv-python"
            )
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise OutputError("--preview: there is no display; set DISPLAY or leave out --preview")
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise OutputError(f"--preview: no window can be opened: {error}") from error

    def show(self, frame: Frame) -> None:
        cv2.imshow(self._title, rgb_of(frame)[..., ::-1])
        code = cv2.waitKey(1)
        self.key = chr(code & 0xFF) if code >= 0 else ""

    def close(self) -> None:
        with contextlib.suppress(cv2.error):
            cv2.destroyWindow(self._title)
