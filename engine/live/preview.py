"""A preview window."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NamedTuple

import cv2

from fusematte.engine.errors import OutputError
from fusematte.engine.frame import Frame
from fusematte.engine.live.outputs import Outlet
from fusematte.engine.media.av_frames import rgb_of

TITLE = "FuseMatte"


class Click(NamedTuple):
    """A click on the picture, in pixels of it: keep who is there, or not."""

    x: int
    y: int
    keeps: bool


class Preview(Outlet):
    """A window; ``key`` is the last key pressed in it.  Use it from one thread only.

    A click keeps who is there; one with the other button, or with shift, drops.

    Raises:
        OutputError: this build of OpenCV has no windows, or there is no display.
    """

    def __init__(self) -> None:
        self.name = "preview"
        self.key = ""
        self._clicks: list[Click] = []
        if "GUI:                           NONE" in cv2.getBuildInformation():
            raise OutputError(
                "--preview: this build of OpenCV has no windows",
                option="preview",
                remedy="pip uninstall "
                "opencv-python-headless, then pip install --force-reinstall opencv-python",
            )
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise OutputError(
                "--preview: there is no display",
                option="preview",
                remedy="set DISPLAY or leave out --preview",
            )
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise OutputError(
                f"--preview: no window can be opened: {error}", option="preview"
            ) from error
        cv2.setMouseCallback(TITLE, self._on_mouse)

    def show(self, frame: Frame) -> None:
        cv2.imshow(TITLE, rgb_of(frame)[..., ::-1])
        code = cv2.waitKey(1)
        self.key = chr(code & 0xFF) if code >= 0 else ""

    def take_clicks(self) -> list[Click]:
        """The clicks since the last call."""
        taken, self._clicks = self._clicks, []
        return taken

    def _on_mouse(self, event: int, x: int, y: int, flags: int, _: object) -> None:
        if event in (cv2.EVENT_LBUTTONDOWN, cv2.EVENT_RBUTTONDOWN):
            shifted = bool(flags & cv2.EVENT_FLAG_SHIFTKEY)
            self._clicks.append(Click(x, y, event == cv2.EVENT_LBUTTONDOWN and not shifted))

    def close(self) -> None:
        with contextlib.suppress(cv2.error):
            cv2.destroyWindow(TITLE)
