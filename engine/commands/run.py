"""``fusematte run``: a video in, its people over another background out."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from fractions import Fraction

from fusematte.engine.commands.options import add_long_job_options, add_model_options
from fusematte.engine.errors import FuseMatteError, UsageError
from fusematte.engine.jobs.progress import ProgressReport
from fusematte.engine.jobs.segmented import run, segments_of
from fusematte.engine.media.audio import AUDIO_MODES
from fusematte.engine.media.files import is_folder
from fusematte.engine.media.formats import BITRATES
from fusematte.engine.media.image_sequence import ALPHA_MODES
from fusematte.engine.media.outputs import parts_of
from fusematte.engine.media.writer import is_stdout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "input",
        metavar="IN",
        help="a video, a URL, a folder of pictures, shot_%%04d.png; - or, raw, "
        "pipe:WxH:FORMAT:RATE: standard input",
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        help="where the result goes; .mp4, .mkv, ..., out_%%05d.png, .exr; stdout: -, pipe:ts",
    )
    add_background(parser)
    add_look_options(parser)
    add_output_options(parser)
    add_encoding_options(parser)
    add_input_options(parser)
    add_long_job_options(parser)
    add_model_options(parser)


def add_background(parser: argparse.ArgumentParser) -> None:
    """What people are put on."""
    parser.add_argument(
        "--background",
        "-b",
        default="green",
        metavar="BG",
        help="green, #rrggbb, blur[:sigma], transparent, a picture or a video, which loops (green)",
    )


def add_look_options(parser: argparse.ArgumentParser) -> None:
    """How the people sit in their new surroundings."""
    parser.add_argument(
        "--light-wrap",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="let the background's light shine over their edges, 0 to 1 (0)",
    )
    parser.add_argument(
        "--despill",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="take the old background's hue off them, 0 to 1 (0)",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Further outputs."""
    parser.add_argument("--alpha-output", metavar="PATH", help="also write the alpha, in gray")
    parser.add_argument(
        "--foreground-output", metavar="PATH", help="also write the people's own colours, uncut"
    )
    parser.add_argument(
        "--rgba-output",
        metavar="PATH",
        help="also write these colours with the alpha: .mov, .webm, .mkv or pictures",
    )


def add_encoding_options(parser: argparse.ArgumentParser) -> None:
    """How the output is encoded."""
    parser.add_argument("--codec", help="video encoder of OUT (libx264; libvpx-vp9 for .webm)")
    parser.add_argument("--pixel-format", metavar="FMT", help="of OUT, as libav names it")
    parser.add_argument("--crf", type=int, help="constant quality; lower is better (by codec)")
    parser.add_argument("--bitrate", type=bitrate, metavar="N", help="of OUT: 800k, 8M; not --crf")
    parser.add_argument("--preset", help="the encoder's speed (veryfast)")
    parser.add_argument(
        "--alpha-mode",
        choices=ALPHA_MODES,
        help="colours of pictures with an alpha (.exr: premultiplied; .png, .tiff: straight)",
    )
    parser.add_argument(
        "--audio",
        choices=AUDIO_MODES,
        default="convert",
        help="copy audio, and convert what OUT cannot hold; copy or refuse it; leave it out "
        "(%(default)s)",
    )
    parser.add_argument(
        "--no-audio", dest="audio", action="store_const", const="none", help="as --audio none"
    )


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Which part of the input, and how fast."""
    parser.add_argument(
        "--start", type=clock_time, metavar="TIME", help="begin there: 75, 1:15 or 0:01:15.0"
    )
    parser.add_argument("--end", type=clock_time, metavar="TIME", help="end before that time")
    parser.add_argument(
        "--frame-rate", type=frame_rate, metavar="N", help="of pictures: 24, 30000/1001 (25)"
    )


def clock_time(text: str) -> Fraction:
    """Seconds, or ``[hours:]minutes:seconds``.

    Raises:
        argparse.ArgumentTypeError: it is no time.
    """
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write seconds or h:mm:ss")
    hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def bitrate(text: str) -> int:
    """Bits per second, with ``k``, ``M`` or ``G`` for powers of a thousand.

    Raises:
        argparse.ArgumentTypeError: it is no bitrate.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", text)
    number = round(Fraction(match[1]) * _POWERS[match[2].lower()]) if match else 0
    if number not in BITRATES:
        raise argparse.ArgumentTypeError(f"{text!r} is no bitrate of 1k to 2G; write 800k or 8M")
    return number


def frame_rate(text: str) -> Fraction:
    """Pictures per second: a number or a fraction, above 0 and at most 1000.

    Raises:
        argparse.ArgumentTypeError: it is no frame rate.
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no frame rate; write 24 or 30000/1001")
    return rate


_POWERS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    progress = None if options.quiet else ProgressReport()
    begun = time.time()
    try:
        done = run(
            options.input,
            options.output,
            background=options.background,
            light_wrap=options.light_wrap,
            despill=options.despill,
            alpha_output=options.alpha_output,
            foreground_output=options.foreground_output,
            rgba_output=options.rgba_output,
            start=options.start,
            end=options.end,
            frame_rate=options.frame_rate,
            model=options.model,
            backend=options.backend,
            threads=options.threads,
            codec=options.codec,
            pixel_format=options.pixel_format,
            bitrate=options.bitrate,
            crf=options.crf,
            preset=options.preset,
            alpha_mode=options.alpha_mode,
            audio=options.audio,
            resume=options.resume,
            cluster=options.cluster,
            report=options.report,
            progress=progress,
        )
    except (FuseMatteError, KeyboardInterrupt) as error:
        if progress is not None:
            progress.clear()
        outputs = (
            options.output,
            options.alpha_output,
            options.foreground_output,
            options.rgba_output,
        )
        if not isinstance(error, UsageError):
            _say_what_is_left(begun, *outputs)
        raise
    if progress is not None:
        progress.clear()
        # The result itself may go to standard output.
        print(f"{options.output}: {done}", file=sys.stderr if is_stdout(options.output) else None)
    return 0


def _say_what_is_left(begun: float, *outputs: str | None) -> None:
    """Names the partial files of a broken job; older ones are none of ours."""
    for part in (part for output in outputs if output for part in parts_of(output)):
        if os.path.lexists(part) and part.lstat().st_mtime >= begun - 1:
            print(f"fusematte: {part} holds what was done so far", file=sys.stderr)
    folder = segments_of(outputs[0] or "")
    if is_folder(folder) and any(file.stat().st_mtime >= begun - 1 for file in folder.iterdir()):
        print(f"fusematte: {folder} holds finished stretches; --resume goes on", file=sys.stderr)
