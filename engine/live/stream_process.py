"""A stream to the network, written by a process of its own.

While libav connects and says goodbye PyAV holds Python's lock and knows no timeout: a server that
takes the connection and says nothing would stop every thread of the program, for ever.  So the
connection lives in a child process, which ends itself when libav does not come back.
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

from fusematte.engine.frame import Frame
from fusematte.engine.live.h264_encoder import LiveEncoder

if sys.platform == "linux":
    import fcntl

_PIPE = 1 << 20
"""Bytes; Linux allows everybody that much."""


class LinkError(Exception):
    """The other end cannot be reached, or was lost.

    is_unknown: this libav has not the protocol, so that there is no use in trying again.
    """

    def __init__(self, reason: str, *, is_unknown: bool = False) -> None:
        super().__init__(reason)
        self.is_unknown = is_unknown


class Uplink:
    """The child process, and what is asked of it.

    patience: seconds that libav has for each of them.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._child = self._start()
        self._owes = False

    def open(self, *stream: object) -> None:
        """Connects; takes what ``LiveEncoder`` does.  After a failure it may be called again.

        Raises:
            LinkError: it failed.
        """
        if self._child.poll() is not None:
            self._child = self._start()
        self._ask("open", *stream)
        self._settle()

    def write(self, frame: Frame) -> None:
        """Sends a frame, once the one before it is through.

        Raises:
            LinkError: that one was not.
        """
        self._settle()
        self._ask("write", frame)

    def close(self) -> None:
        """Ends the stream as its protocol wants, and the child."""
        self._child.communicate()  # the end of its input is the end

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal is for us, who then close the stream.
        child = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(self._patience)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        if sys.platform == "linux":  # a picture goes through in one go or two
            fcntl.fcntl(_end(child.stdin), fcntl.F_SETPIPE_SZ, _PIPE)
        return child

    def _ask(self, what: str, *values: object) -> None:
        pipe = _end(self._child.stdin)
        with self._watching():
            pickle.dump((what, values), pipe, pickle.HIGHEST_PROTOCOL)
            pipe.flush()
        self._owes = True

    def _settle(self) -> None:
        """Takes the answer that is still to come."""
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
        except (OSError, EOFError) as error:  # the child has ended itself
            self._owes = False
            self._child.kill()
            with contextlib.suppress(OSError):
                self._child.communicate()
            raise LinkError(f"no answer for {self._patience:g} s") from error


def _end(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


class _Child:
    """What the child has open."""

    def __init__(self) -> None:
        self._encoder: LiveEncoder | None = None

    def open(self, *stream: Any) -> None:  # noqa: ANN401
        self.close()
        self._encoder = LiveEncoder(*stream)

    def write(self, frame: Frame) -> None:
        assert self._encoder is not None
        try:
            self._encoder.write(frame)
        except (av.FFmpegError, OSError):
            self.close()
            raise

    def close(self) -> None:
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            _try(encoder.close)


def _try(work: Callable[[], object]) -> tuple[str, bool] | None:
    """What goes wrong, if something does: the reason, and whether the protocol is unknown."""
    try:
        work()
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        return reason, isinstance(error, av.error.ProtocolNotFoundError)
    return None


def main() -> None:
    """The child: does what it is asked until its input ends."""
    patience = float(sys.argv[1])
    # Nothing but answers may get into the pipe, whatever the libraries print.
    commands, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    child = _Child()
    with Path(os.devnull).open("w") as nowhere:

        def watched(work: Callable[[], object]) -> tuple[str, bool] | None:
            # The watchdog needs no lock of Python's, which libav may hold.
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
