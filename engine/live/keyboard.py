"""Single key presses from the terminal, without Enter."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def terminal_keys() -> Iterator[Callable[[], str]]:
    """Yields a function that returns the last key pressed, or "".

    If standard input is not a terminal, or not a POSIX one, it always returns "".
    """
    try:
        import termios
        import tty
    except ImportError:  # not POSIX: the preview window still has keys
        yield str
        return
    if not sys.stdin.isatty():
        yield str
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    tty.setcbreak(file)
    try:
        yield lambda: _read(file) if select.select([file], [], [], 0)[0] else ""
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def _read(file: int) -> str:
    """Reads one byte without Python's buffer, whose content ``select`` does not see."""
    return os.read(file, 1).decode("ascii", "replace")
