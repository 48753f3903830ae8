"""Recording of live output to a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from fusematte.engine.errors import OutputError, UsageError, reason_of
from fusematte.engine.frame import CLOCK, Frame
from fusematte.engine.live.h264_encoder import LiveEncoder
from fusematte.engine.live.outputs import Outlet
from fusematte.engine.live.sound import Sound
from fusematte.engine.media.files import part_of


class Recording(Outlet):
    """A video file, called PATH.part until it is complete.

    has_sound: whether it gets a track of sound.

    Raises:
        UsageError: the file extension is unknown.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, like: Frame, rate: Fraction, *, has_sound: bool = False) -> None:
        self.name, self._path = str(path), path
        self._part = part_of(path)
        formats = {".mkv": "matroska", ".mp4": "mp4", ".mov": "mov", ".ts": "mpegts", ".flv": "flv"}
        if path.suffix.lower() not in formats:
            raise UsageError.at(
                path, "unknown kind of video file", remedy=f"use one of {', '.join(formats)}"
            )
        options = {"preset": "veryfast", "crf": "20"}
        with self._failing():
            self._encoder = LiveEncoder(
                f"file:{self._part}", formats[path.suffix.lower()], like, rate, options, {},
                has_sound=has_sound,
            )  # fmt: skip
        self._begin: int | None = None

    def show(self, frame: Frame) -> None:
        self._begin = frame.pts if self._begin is None else self._begin
        with self._failing():
            self._encoder.write(replace(frame, pts=frame.pts - self._begin))

    def hear(self, sound: Sound) -> None:
        if self._begin is not None:
            with self._failing():
                begin = float(self._begin * CLOCK)
                self._encoder.hear(replace(sound, time=sound.time - begin))

    def close(self) -> None:
        with self._failing():
            self._encoder.close()
            if self._begin is None:
                self._part.unlink()
            else:
                self._part.replace(self._path)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise OutputError.at(self._path, f"cannot be written: {reason_of(error)}") from error
