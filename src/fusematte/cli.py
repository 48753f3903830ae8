"""The command line: ``fusematte COMMAND ...``.

A command is a module with ``add_arguments(parser)`` and ``main(options) -> exit code``; only the
one that is named gets imported, so that the runtime's commands never pull in training or export.
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
)

COMMANDS = {
    "run": ("fusematte.engine.commands.run", "replace the background of a video"),
    "batch": ("fusematte.engine.commands.batch", "replace the backgrounds of many videos"),
    "matte": (
        "fusematte.engine.commands.matte",
        "write the alpha of still pictures as 8-bit PNG",
    ),
    "live": ("fusematte.engine.commands.live", "replace the background of a camera or a stream"),
    "serve": (
        "fusematte.engine.commands.serve",
        "a page on this machine, for the camera and for video files",
    ),
    "demo": ("fusematte.engine.commands.demo", "make a clip, matte it, show what came out"),
    "bench": ("fusematte.engine.commands.bench", "measure how fast this machine is"),
    "tune": ("fusematte.engine.commands.tune", "find what is fastest on this machine, keep it"),
    "export": (
        "fusematte.export.commands.export",
        "write a model for another runtime, proved on real frames",
    ),
    "models": ("fusematte.engine.commands.models", "list models, say what is in a bundle"),
    "doctor": (
        "fusematte.engine.commands.doctor",
        "tell what runs here, and why the rest does not",
    ),
    "train": ("fusematte.training.commands.train", "train a network, or prepare data for it"),
    "evaluate": ("fusematte.training.commands.evaluate", "score a model, show what it thinks"),
}
"""Name: its module, what it does."""

EXIT_CODES = """\
exit codes: 0 done, 2 usage, 3 input, 4 input broke off (the result so far is OUT.part), 5 output,
6 background, 7 model, 8 backend, 9 export, 70 too little memory or a fault of fusematte itself,
130 interrupted (the result so far is OUT.part)"""


FIRST = """\
What people do with it:

  fusematte run talk.mp4 out.mp4 --background beach.jpg     a video over another background
  fusematte run talk.mp4 cut.mov --background transparent   a video, cut out
  fusematte matte portrait.jpg -b transparent -o cut        pictures, cut out
  fusematte live --background blur --virtual-camera         a camera for meetings
  fusematte serve                                           a page for the camera and for videos

fusematte doctor tells what runs here, fusematte COMMAND --help the rest."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as every other error does."""

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
    _hear_of_the_end()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be UTF-8
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
    except BrokenPipeError:
        # Nobody reads standard output any more; Python would say so again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OutputError.exit_code
    except MemoryError:
        print("fusematte: there is not enough memory; close other programs", file=sys.stderr)
        return FAULT
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(f"fusematte: {error.filename}: the name is too long", file=sys.stderr)
            return UsageError.exit_code
        if os.environ.get("FUSEMATTE_TRACEBACK"):
            raise
        said = (str(error).splitlines() or [""])[0]
        print(
            f"fusematte: a fault of its own: {type(error).__name__}: {said}; "
            "FUSEMATTE_TRACEBACK=1 shows where, for a report",
            file=sys.stderr,
        )
        return FAULT
    return code


def _hear_of_the_end() -> None:
    """Lets a request to end (SIGTERM) and a closed terminal (SIGHUP) act as Ctrl-C does.

    What the caller ignores, as nohup does, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


class Completion(argparse.Action):
    """Prints a script for a shell, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> NoReturn:  # noqa: ANN401
        _, shell, *_ = rest
        try:
            import shtab
        except ImportError:
            parser.error("--completion needs shtab: pip install shtab")
        print(shtab.complete(build_parser([], whole=True), shell=shell))
        parser.exit()


def build_parser(arguments: Sequence[str], *, whole: bool = False) -> argparse.ArgumentParser:
    """The parser for ``arguments``; only the command that they name knows its own arguments.

    whole: every command that can be imported here knows them.
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
        help="print a script that lets this shell complete commands, options and files",
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    named = next((word for word in arguments if word in COMMANDS), None)
    for name, (module, help) in COMMANDS.items():
        command = commands.add_parser(
            name, help=help, description=help, epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.set_defaults(module=module)
        command.add_argument("--quiet", "-q", action="store_true", help="say only what went wrong")
        if name == named or (whole and find_spec(module)):
            import_module(module).add_arguments(command)
    return parser
