"""The interface of live outputs, and the thread that feeds one."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import deque

from fusematte.engine.errors import FuseMatteError, OutputError
from fusematte.engine.frame import Frame
from fusematte.engine.live.sound import Sound
from fusematte.engine.pipeline import Relay, Stage, Stopped

WAITING = 15
"""Frames queued for a slow output before frames are dropped."""
LISTENING = 500
"""Pieces of sound queued for a slow output before they are dropped: about ten seconds."""


class Outlet(ABC):
    """A live output.

    ``show`` raises ``OutputError`` for permanent failures; it handles temporary ones, such as a
    lost connection, itself.  All frames have the size of the one the output was created for.
    """

    name: str

    @abstractmethod
    def show(self, frame: Frame) -> None:
        """Outputs a frame, without keeping a reference to it."""

    def hear(self, sound: Sound) -> None:  # noqa: B027
        """Outputs a piece of sound; outputs without sound ignore it."""

    @abstractmethod
    def close(self) -> None:
        """Completes the output or frees the device."""


def check_even(name: str, like: Frame) -> None:
    """Raises OutputError for odd sizes, whose chroma cannot be subsampled."""
    if like.width % 2 or like.height % 2:
        raise OutputError.at(name, f"needs an even size, not {like.width}x{like.height}")


class Sender:
    """Runs an outlet in its own thread: a slow one misses frames and does not delay others.

    error: why the outlet failed; None while it works.
    """

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.missed = 0
        self.error: FuseMatteError | None = None
        self._sounds: deque[Sound] = deque(maxlen=LISTENING)
        self._relay = Relay(Stage(f"output {outlet.name}", self._show), waiting=WAITING)

    def show(self, frame: Frame) -> None:
        """Queues a frame; returns at once."""
        with contextlib.suppress(Stopped):
            self.missed += self._relay.push(frame)

    def hear(self, sound: Sound) -> None:
        """Queues a piece of sound, which goes out before the next frame."""
        self._sounds.append(sound)

    def close(self) -> None:
        """Ends the thread and closes the outlet."""
        self._relay.close()
        self.outlet.close()

    def _show(self, frame: Frame) -> None:
        try:
            while self._sounds:
                self.outlet.hear(self._sounds.popleft())
            self.outlet.show(frame)
        except FuseMatteError as error:
            self.error = error
            raise Stopped from error
