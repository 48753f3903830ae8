"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple, TextIO

from fusematte.engine.backends import BACKENDS, Spec
from fusematte.engine.backends.spec import PRECISIONS
from fusematte.engine.errors import FuseMatteError, UsageError
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.progress import JsonProgress, ProgressReport
from fusematte.engine.matting.mask import Mask
from fusematte.engine.matting.selection import Selection
from fusematte.engine.models import DEFAULT_MODEL

LOOK = ("light_wrap", "despill")
MASK = ("invert", "grow", "feather", "min_alpha")
SELECTION = ("keep", "drop", "keep_box")


def mask_of(options: argparse.Namespace) -> Mask:
    """The mask edits of the options ``MASK``.

    Raises:
        UsageError: a value is out of range.
    """
    return Mask(**{name: getattr(options, name) for name in MASK})


def selection_of(options: argparse.Namespace) -> Selection:
    """What the options ``SELECTION`` ask for, of a picture.

    Raises:
        UsageError: a prompt is invalid, or has a time.
    """
    told, _ = JobOptions(**{name: getattr(options, name) for name in SELECTION}).selection
    for prompt in told:
        if prompt.time is not None:
            raise UsageError(f"{prompt}: a picture has no times", option=prompt.kind)
    return told


def add_job_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds options of a file job, as ``JobOptions`` defines them: the named ones, or all."""
    for option in fields(JobOptions):
        if names and option.name not in names:
            continue
        flag, keywords = option.name.replace("_", "-"), dict(option.metadata)
        if option.default is False:
            parser.add_argument(f"--{flag}", action="store_true", **keywords)
        elif option.default is True:
            parser.add_argument(f"--no-{flag}", dest=option.name, action="store_false", **keywords)
        elif option.default == ():
            parser.add_argument(f"--{flag}", action=_Gather, default=(), **keywords)
        else:
            keywords["type"] = text_of(keywords["type"]) if "type" in keywords else None
            flags = (f"--{flag}", "-b") if option.name == "background" else (f"--{flag}",)
            parser.add_argument(*flags, default=option.default, **keywords)
        if option.name == "audio":
            parser.add_argument(
                "--no-audio", dest="audio", action="store_const", const="none",
                help="the same as --audio none",
            )  # fmt: skip


class _Gather(argparse.Action):
    """Collects the values of an option that can be given several times in a tuple."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), values))


def parse_size(text: str, *, least: int = 1, multiple: int = 1) -> tuple[int, int]:
    """Parses ``WIDTHxHEIGHT``; returns (height, width).

    Raises:
        UsageError: it is not a size, or a side is too small or not a multiple.
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise UsageError(f"{text!r} is not a size", remedy="write WIDTHxHEIGHT, as in 1280x720")
    width, height = map(int, sides)
    if min(width, height) < least:
        raise UsageError(f"{text}: width and height must be {least} or more")
    if width % multiple or height % multiple:
        raise UsageError(f"{text}: width and height must be multiples of {multiple}")
    return height, width


def text_of(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wraps a parser for argparse, which only shows the message of an ArgumentTypeError."""

    def parsed(text: str) -> Any:  # noqa: ANN401
        try:
            return parse(text)
        except ValueError as error:
            if parse in (int, float):
                raise  # argparse has a good message for these
            raise argparse.ArgumentTypeError(str(error)) from error

    parsed.__name__ = parse.__name__
    return parsed


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--backend``, ``--precision`` and ``--threads``; see ``backend_of``."""
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="a shipped model or a bundle folder (%(default)s)"
    )
    add_backend_options(parser)


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """``--backend``, ``--precision`` and ``--threads``."""
    parser.add_argument(
        "--backend", default="auto", metavar="NAME[:DEVICE]",
        help=f"auto, {', '.join(BACKENDS)}, as in openvino:gpu (auto: the fastest)",
    )  # fmt: skip
    add_precision(parser)
    parser.add_argument(
        "--threads", type=int, metavar="N",
        help="CPU threads for inference (as tune found best, else half of the processors, for "
        "files two at least; for stills all)",
    )  # fmt: skip


def add_precision(parser: argparse.ArgumentParser) -> None:
    """``--precision``."""
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="precision of the network (the fastest)"
    )


def backend_of(options: argparse.Namespace) -> str:
    """``--backend`` and ``--precision`` together, as a ``Spec`` in text.

    Raises:
        BackendError: ``--backend`` is malformed.
    """
    spec = Spec.parse(options.backend)
    return str(spec._replace(precision=options.precision or spec.precision))


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument(
        "--json", action="store_true",
        help="print progress, results and errors as JSON, one object per line, on standard output "
        "(on standard error if the video goes there)",
    )  # fmt: skip


class Talk(NamedTuple):
    """The output of a command while it works.

    lines: JSON lines, with ``--json``, else None; progress: these, a bar, or lines of text; None
    with ``--quiet``.
    """

    lines: JsonProgress | None
    progress: JsonProgress | ProgressReport | None


@contextmanager
def talking(options: argparse.Namespace, stream: TextIO | None = None) -> Iterator[Talk]:
    """Shows the progress of a command; with ``--json`` its error is printed, too.

    stream: where the JSON lines go (standard output).
    """
    lines = JsonProgress(stream) if options.json else None
    progress = lines or (None if options.quiet else ProgressReport())
    try:
        yield Talk(lines, progress)
    except FuseMatteError as error:
        if lines is not None:
            lines.tell("error", **error.fields())
        raise
    finally:
        if progress is not None:
            progress.clear()


def add_long_job_options(parser: argparse.ArgumentParser) -> None:
    """``--resume``, ``--jobs``, ``--cluster`` and ``--report``."""
    parser.add_argument("--resume", action="store_true", help="continue an interrupted job")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="work on N segments of a long video, or files, side by side (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="run on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT",
    )
    parser.add_argument(
        "--report", metavar="DIR", help="write a page with the frames to check by eye to DIR"
    )
