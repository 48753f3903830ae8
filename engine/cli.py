"""The command line: ``fusematte run | matte | demo | doctor``."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from fusematte.engine import errors
from fusematte.engine.backends import BACKENDS
from fusematte.engine.demo import run_demo
from fusematte.engine.doctor import report
from fusematte.engine.errors import FuseMatteError, OutputError
from fusematte.engine.job import Report, run
from fusematte.engine.matte import Matter
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.progress import ProgressReport
from fusematte.engine.stills import matte_image, output_paths, write_png

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_CODES = """\
exit codes: 0 done, 2 usage, 3 input, 4 input broke off (the result so far is OUT.part), 5 output,
6 background, 7 model, 8 backend, 130 interrupted (the result so far is OUT.part)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(
        format="%(message)s", level=logging.WARNING if options.quiet else logging.INFO
    )
    try:
        code: int = options.command(options)
    except FuseMatteError as error:
        print(f"fusematte: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("fusematte: interrupted", file=sys.stderr)
        return errors.INTERRUPTED
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="fusematte",
        description="Separates people from their background in video, in real time.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("fusematte"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_matte(commands)
    _add_demo(commands)
    _add_doctor(commands)
    return parser


def _add_command(commands: Commands, name: str, help: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=help, description=help, epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quiet", "-q", action="store_true", help="say only what went wrong")
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="a shipped model or a bundle folder (%(default)s)"
    )
    parser.add_argument("--backend", default="auto", help=f"auto, {', '.join(BACKENDS)} (auto)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads for the network (the backend chooses)"
    )


def _add_run(commands: Commands) -> None:
    parser = _add_command(commands, "run", "replace the background of a video")
    parser.set_defaults(command=_run)
    parser.add_argument("input", metavar="IN", help="the video")
    parser.add_argument("output", metavar="OUT", help="where the result goes; .mp4, .mkv, ...")
    parser.add_argument(
        "--background",
        "-b",
        default="green",
        metavar="BG",
        help="green, #rrggbb, blur[:sigma], a picture or a video, which loops (green)",
    )
    parser.add_argument("--alpha-output", metavar="PATH", help="also write the alpha, a gray video")
    parser.add_argument("--codec", help="video encoder (libx264; libvpx-vp9 for .webm)")
    parser.add_argument("--crf", type=int, help="constant quality; lower is better (by codec)")
    parser.add_argument("--preset", help="the encoder's speed (veryfast)")
    parser.add_argument("--no-audio", dest="audio", action="store_false", help="leave audio out")
    _add_model_options(parser)


def _run(options: argparse.Namespace) -> int:
    progress = None if options.quiet else ProgressReport()
    begun = time.time()
    try:
        done = run(
            options.input,
            options.output,
            background=options.background,
            alpha_output=options.alpha_output,
            model=options.model,
            backend=options.backend,
            threads=options.threads,
            codec=options.codec,
            crf=options.crf,
            preset=options.preset,
            audio=options.audio,
            progress=progress,
        )
    except (FuseMatteError, KeyboardInterrupt):
        if progress is not None:
            progress.clear()
        _say_what_is_left(begun, options.output, options.alpha_output)
        raise
    if progress is not None:
        progress.clear()
        print(f"{options.output}: {summary(done)}")
    return 0


def _say_what_is_left(begun: float, *outputs: str | None) -> None:
    """Names the partial files of a broken job; older ones are none of ours."""
    for part in (Path(f"{output}.part") for output in outputs if output is not None):
        if part.exists() and part.stat().st_mtime >= begun - 1:
            print(f"fusematte: {part} holds what was done so far", file=sys.stderr)


def summary(done: Report) -> str:
    """``900 frames in 36.1 s (24.9 fps)``."""
    return f"{done.frames} frames in {done.seconds:.1f} s ({done.rate:.1f} fps)"


def _add_matte(commands: Commands) -> None:
    parser = _add_command(commands, "matte", "write the alpha of still pictures as 8-bit PNG")
    parser.set_defaults(command=_matte)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--output-dir", "-o", type=Path, required=True, metavar="DIR", help="DIR/<stem>.png"
    )
    _add_model_options(parser)


def _matte(options: argparse.Namespace) -> int:
    paths = output_paths(options.images, options.output_dir)
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{options.output_dir}: cannot be made: {error.strerror}") from error
    code = 0
    with Matter(options.model, backend=options.backend, threads=options.threads) as matter:
        for image, path in zip(options.images, paths, strict=True):
            try:
                write_png(path, matte_image(image, matter))
            except errors.InputError as error:  # the other pictures are still wanted
                print(f"fusematte: {error}", file=sys.stderr)
                code = error.exit_code
                continue
            if not options.quiet:
                print(path)
    return code


def _add_demo(commands: Commands) -> None:
    parser = _add_command(commands, "demo", "make a clip, matte it, show what came out")
    parser.set_defaults(command=_demo)
    parser.add_argument("--output-dir", "-o", type=Path, default=Path("demo"), metavar="DIR")


def _demo(options: argparse.Namespace) -> int:
    progress = None if options.quiet else ProgressReport()
    demo = run_demo(options.output_dir, progress)
    if progress is not None:
        progress.clear()
    print(summary(demo.report))
    for name in ("clip", "composite", "alpha", "sheet"):
        print(f"{name + ':':<11}{getattr(demo, name)}")
    return 0


def _add_doctor(commands: Commands) -> None:
    parser = _add_command(commands, "doctor", "tell what runs here, and why the rest does not")
    parser.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:  # noqa: ARG001
    lines, usable = report()
    print("\n".join(lines))
    return 0 if usable else errors.BackendError.exit_code
