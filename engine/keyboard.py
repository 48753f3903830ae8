"""Single keys from the terminal, without Enter, where there is one."""

from __future__ import annotations

import contextlib
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
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield lambda: sys.stdin.read(1) if select.select([sys.stdin], [], [], 0)[0] else ""
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
