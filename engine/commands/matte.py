"""``fusematte matte``: the alpha of still pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fusematte.engine.commands.options import add_model_options
from fusematte.engine.errors import InputError, OutputError
from fusematte.engine.jobs.stills import matte_image, output_paths
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.files import write_png
from fusematte.engine.pipeline import processors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--output-dir", "-o", type=Path, required=True, metavar="DIR", help="DIR/<stem>.png"
    )
    add_model_options(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    paths = output_paths(options.images, options.output_dir)
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{options.output_dir}: cannot be made: {error.strerror}") from error
    code = 0
    threads = options.threads or processors()  # nothing else is at work
    with Matter(options.model, backend=options.backend, threads=threads) as matter:
        for image, path in zip(options.images, paths, strict=True):
            try:
                write_png(path, matte_image(image, matter))
            except InputError as error:  # the other pictures are still wanted
                print(f"fusematte: {error}", file=sys.stderr)
                code = error.exit_code
                continue
            if not options.quiet:
                print(path)
    return code
