"""Single keys from the terminal, without Enter, where there is one."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def terminal_keys() -> Iterator[Callable[[], str]]:
    """Gives a function that returns the key pressed last, or "".

    Where standard input is no terminal, or the system has another kind of them, it always does.
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
    """One byte, past Python's buffer: what waits there ``select`` would not see."""
    return os.read(file, 1).decode("ascii", "replace")
