"""The command line: ``fusematte COMMAND ...``.

A command is a module with ``add_arguments(parser)`` and ``main(options) -> exit code``.  Only the
named command is imported, so that the runtime's commands never import training or export.
"""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NoReturn

from fusematte.engine.errors import (
    FAULT,
    INTERRUPTED,
    FuseMatteError,
    OutputError,
    UsageError,
    first_line,
    reason_of,
)

_NO_MEMORY = (
    "Cannot allocate memory",
    "bad_alloc",
    "can't start new thread",
    "failed to map segment",
)
"""What Python and libraries say that get no memory, by other exceptions than ``MemoryError``."""

COMMANDS = {
    "run": ("fusematte.engine.commands.run", "replace the background of a video"),
    "batch": ("fusematte.engine.commands.batch", "replace the backgrounds of many videos"),
    "matte": (
        "fusematte.engine.commands.matte",
        "matte still pictures: alpha, cut-outs or composites as PNG",
    ),
    "live": ("fusematte.engine.commands.live", "replace the background of a camera or a stream"),
    "serve": (
        "fusematte.engine.commands.serve",
        "serve a local page for the camera and for video files",
    ),
    "demo": ("fusematte.engine.commands.demo", "generate a clip, matte it, show the result"),
    "bench": ("fusematte.engine.commands.bench", "measure the speed of this machine"),
    "tune": ("fusematte.engine.commands.tune", "find and remember the fastest backend"),
    "export": (
        "fusematte.export.commands.export",
        "export a model for another runtime, checked on real frames",
    ),
    "models": ("fusematte.engine.commands.models", "list models, describe bundles"),
    "doctor": (
        "fusematte.engine.commands.doctor",
        "check what works on this machine",
    ),
    "train": ("fusematte.training.commands.train", "train a network, or prepare data for it"),
    "evaluate": ("fusematte.training.commands.evaluate", "score a model, show its maps"),
}
"""Name: module and description."""

EXIT_CODES = """\
exit codes: 0 success, 2 usage, 3 input, 4 truncated input (frames so far in OUT.part), 5 output,
6 background, 7 model, 8 backend, 9 export, 70 internal error or too little memory,
130 interrupted (frames so far in OUT.part)"""


FIRST = """\
Common uses:

  fusematte run talk.mp4 out.mp4 --background beach.jpg     replace the background of a video
  fusematte run talk.mp4 cut.mov --background transparent   cut the people out of a video
  fusematte matte portrait.jpg -b transparent -o cut        cut the people out of pictures
  fusematte live --background blur --virtual-camera         a camera for video calls
  fusematte serve                                           a local page for camera and videos

See fusematte --help for all commands, fusematte doctor for what works on this machine."""


class Parser(argparse.ArgumentParser):
    """Prints errors in one line, like all other errors of the command line."""

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"fusematte: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(FIRST)
        return 0
    options = build_parser(arguments).parse_args(arguments)
    logging.basicConfig(
        format="%(message)s", level=logging.WARNING if options.quiet else logging.INFO
    )
    _end_like_ctrl_c()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = import_module(options.module).main(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except FuseMatteError as error:
        print(f"fusematte: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("fusematte: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of standard output is gone
        return _without_output()
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
            print(f"fusematte: standard output: {reason_of(error)}", file=sys.stderr)
            return _without_output()
        return _unexpected(error)
    return code


def entry() -> NoReturn:
    """Runs a command as a process of its own."""
    code = main()
    if any(thread.name.startswith("fusematte-") for thread in threading.enumerate()):
        # A network that hangs was abandoned: libraries in C++ would abort if it woke up at exit.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _without_output() -> int:
    """Lets Python not complain again at exit that standard output cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return OutputError.exit_code


def _unexpected(error: Exception) -> int:
    """Prints an exception that FuseMatte did not raise on purpose; returns the exit code.

    Raises:
        Exception: ``error``, if FUSEMATTE_TRACEBACK is set and it is not about memory or a name.
    """
    if _lacks_memory(error):
        print("fusematte: not enough memory; close other programs", file=sys.stderr)
        return FAULT
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        print(f"fusematte: {error.filename}: the file name is too long", file=sys.stderr)
        return UsageError.exit_code
    if os.environ.get("FUSEMATTE_TRACEBACK"):
        raise error
    print(
        f"fusematte: internal error: {type(error).__name__}: {first_line(error)}; for a bug "
        "report, set FUSEMATTE_TRACEBACK=1 and run it again",
        file=sys.stderr,
    )
    return FAULT


def _lacks_memory(error: Exception) -> bool:
    """Whether memory is what an exception is about; libraries in C++ have words of their own."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _end_like_ctrl_c() -> None:
    """Lets SIGTERM and SIGHUP act like Ctrl-C; signals that the caller ignores, as nohup does, stay
    ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


class Completion(argparse.Action):
    """Prints a completion script for a shell, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> NoReturn:  # noqa: ANN401
        _, shell, *_ = rest
        try:
            import shtab
        except ImportError:
            parser.error("--completion needs shtab; pip install shtab")
        print(shtab.complete(build_parser([], whole=True), shell=shell))
        parser.exit()


def build_parser(arguments: Sequence[str], *, whole: bool = False) -> argparse.ArgumentParser:
    """The parser for ``arguments``; only the command named there gets its arguments.

    whole: every importable command gets its arguments.
    """
    parser = Parser(
        prog="fusematte",
        description="Separates people from their background in video, in real time.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("fusematte"))
    parser.add_argument(
        "--completion", action=Completion, choices=("bash", "zsh", "tcsh"),
        help="print a script for completion of commands, options and files in this shell",
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    named = next((word for word in arguments if word in COMMANDS), None)
    for name, (module, help) in COMMANDS.items():
        command = commands.add_parser(
            name, help=help, description=help, epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.set_defaults(module=module)
        command.add_argument("--quiet", "-q", action="store_true", help="print errors only")
        if name == named or (whole and find_spec(module)):
            import_module(module).add_arguments(command)
    return parser
