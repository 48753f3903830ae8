"""``fusematte run``: a video in, its people over another background out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fusematte.engine.commands.options import add_model_options
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.job import run
from fusematte.engine.progress import ProgressReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
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
    add_model_options(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
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
        print(f"{options.output}: {done}")
    return 0


def _say_what_is_left(begun: float, *outputs: str | None) -> None:
    """Names the partial files of a broken job; older ones are none of ours."""
    for part in (Path(f"{output}.part") for output in outputs if output is not None):
        if part.exists() and part.stat().st_mtime >= begun - 1:
            print(f"fusematte: {part} holds what was done so far", file=sys.stderr)
