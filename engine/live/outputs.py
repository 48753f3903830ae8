"""Where live pictures go: the contract of an output, and the thread that serves one."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod

from fusematte.engine.errors import FuseMatteError, OutputError
from fusematte.engine.frame import Frame
from fusematte.engine.pipeline import Relay, Stage, Stopped

WAITING = 15
"""Frames that may wait for a slow output before it misses some."""


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


def check_even(name: str, like: Frame) -> None:
    """Refuses sizes whose chroma cannot be halved."""
    if like.width % 2 or like.height % 2:
        raise OutputError(f"{name}: needs even sizes, not {like.width}x{like.height}")


class Sender:
    """An outlet in a thread of its own: a slow one misses frames and holds nobody up.

    error: why it has given up, if it has.
    """

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.missed = 0
        self.error: FuseMatteError | None = None
        self._relay = Relay(Stage(f"output {outlet.name}", self._show), waiting=WAITING)

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
