"""A network stream, written by a child process.

While libav connects and disconnects, PyAV holds the GIL and has no timeout: a server that accepts
the connection and stays silent would stop every thread of the program forever.  So the connection
is in a child process, which exits when libav does not return.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import av

from fusematte.engine.errors import reason_of
from fusematte.engine.frame import Frame
from fusematte.engine.live.h264_encoder import LiveEncoder
from fusematte.engine.live.sound import Sound

if sys.platform == "linux":
    import fcntl

_PIPE = 1 << 20
"""Pipe size in bytes: the largest that Linux allows without privileges."""


class LinkError(Exception):
    """The server cannot be reached, or the connection was lost.

    is_unknown: this libav does not support the protocol, so retrying is useless.
    """

    def __init__(self, reason: str, *, is_unknown: bool = False) -> None:
        super().__init__(reason)
        self.is_unknown = is_unknown


class Uplink:
    """The child process and its requests.

    patience: timeout of each request in seconds.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._child = self._start()
        self._owes = False

    def open(self, *stream: object) -> None:
        """Connects; the arguments are those of ``LiveEncoder``.  It may be retried.

        Raises:
            LinkError: it failed.
        """
        if self._child.poll() is not None:
            self._child = self._start()
        self._ask("open", *stream)
        self._settle()

    def write(self, item: Frame | Sound) -> None:
        """Sends a frame or a piece of sound, after the previous one was sent.

        Raises:
            LinkError: sending the previous one failed.
        """
        self._settle()
        self._ask("write", item)

    def close(self) -> None:
        """Ends the stream, as its protocol requires, and the child."""
        self._child.communicate()  # the child exits at the end of its input

    def _start(self) -> subprocess.Popen[bytes]:
        # In a new session: Ctrl-C only reaches the parent, which then closes the stream.
        child = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(self._patience)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        if sys.platform == "linux":  # a picture fits in one or two writes
            fcntl.fcntl(_end(child.stdin), fcntl.F_SETPIPE_SZ, _PIPE)
        return child

    def _ask(self, what: str, *values: object) -> None:
        pipe = _end(self._child.stdin)
        with self._watching():
            pickle.dump((what, values), pipe, pickle.HIGHEST_PROTOCOL)
            pipe.flush()
        self._owes = True

    def _settle(self) -> None:
        """Waits for the pending answer."""
        if not self._owes:
            return
        with self._watching():
            answer: tuple[str, bool] | None = pickle.load(_end(self._child.stdout))
        self._owes = False
        if answer is not None:
            reason, is_unknown = answer
            raise LinkError(reason, is_unknown=is_unknown)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError) as error:  # the child has exited
            self._owes = False
            self._child.kill()
            with contextlib.suppress(OSError):
                self._child.communicate()
            raise LinkError(f"no answer for {self._patience:g} s") from error


def _end(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


class _Child:
    """The requests as the child executes them."""

    def __init__(self) -> None:
        self._encoder: LiveEncoder | None = None

    def open(self, *stream: Any) -> None:  # noqa: ANN401
        self.close()
        self._encoder = LiveEncoder(*stream)

    def write(self, item: Frame | Sound) -> None:
        assert self._encoder is not None
        try:
            if isinstance(item, Sound):
                self._encoder.hear(item)
            else:
                self._encoder.write(item)
        except (av.FFmpegError, OSError):
            self.close()
            raise

    def close(self) -> None:
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            _try(encoder.close)


def _try(work: Callable[[], object]) -> tuple[str, bool] | None:
    """None if it works, else the reason and whether the protocol is unknown."""
    try:
        work()
    except (av.FFmpegError, OSError, ValueError) as error:
        return reason_of(error), isinstance(error, av.error.ProtocolNotFoundError)
    return None


def main() -> None:
    """The child process: executes requests until its input ends."""
    patience = float(sys.argv[1])
    # Only answers may get into the pipe, whatever the libraries print.
    commands, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    child = _Child()
    with Path(os.devnull).open("w") as nowhere:

        def watched(work: Callable[[], object]) -> tuple[str, bool] | None:
            # The watchdog works without the GIL, which libav may hold.
            faulthandler.dump_traceback_later(patience, exit=True, file=nowhere)
            answer = _try(work)
            faulthandler.cancel_dump_traceback_later()
            return answer

        while (asked := _next(commands)) is not None:
            what, values = asked
            pickle.dump(watched(lambda: getattr(child, what)(*values)), answers)  # noqa: B023
            answers.flush()
        watched(child.close)


def _next(commands: IO[bytes]) -> tuple[str, tuple[Any, ...]] | None:
    try:
        asked: tuple[str, tuple[Any, ...]] = pickle.load(commands)
    except EOFError:
        return None
    return asked


if __name__ == "__main__":
    main()
