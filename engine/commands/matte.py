"""``fusematte matte``: the alpha of still pictures, or their people over a new background."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.commands.options import (
    MASK,
    SELECTION,
    add_job_options,
    add_model_options,
    backend_of,
    mask_of,
    selection_of,
)
from fusematte.engine.compositing.backgrounds import Background, open_background
from fusematte.engine.compositing.look import Look
from fusematte.engine.compositing.stills import compose_still
from fusematte.engine.errors import InputError
from fusematte.engine.jobs.stills import output_paths, read_frame
from fusematte.engine.matting.mask import Mask
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Selection
from fusematte.engine.matting.stills import still_alpha
from fusematte.engine.media.files import make_folder, write_png
from fusematte.engine.pipeline import processors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--output-dir",
        "-o",
        type=Path,
        required=True,
        metavar="DIR",
        help="results are DIR/<stem>.png",
    )
    parser.add_argument(
        "--background", "-b", metavar="BG",
        help="write composites over this background instead of the alpha; as for run, transparent "
        "cuts the people out",
    )  # fmt: skip
    add_job_options(parser, *MASK, *SELECTION)
    add_model_options(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    mask, selection = mask_of(options), selection_of(options)
    paths = output_paths(options.images, options.output_dir)
    with ExitStack() as stack:
        background = None
        if options.background is not None:
            background = stack.enter_context(closing(open_background(options.background)))
        make_folder(options.output_dir)
        threads = options.threads or processors()  # nothing else runs beside inference
        matter = stack.enter_context(
            Matter(options.model, backend=backend_of(options), threads=threads)
        )
        code = 0
        for image, path in zip(options.images, paths, strict=True):
            try:
                result = _result(image, matter, background, mask, selection)
            except InputError as error:  # the other pictures are still processed
                print(f"fusematte: {error}", file=sys.stderr)
                code = error.exit_code
                continue
            write_png(path, result)
            if not options.quiet:
                print(path)
    return code


def _result(
    image: str, matter: Matter, background: Background | None, mask: Mask, selection: Selection
) -> NDArray[np.uint8]:
    # The frame is nobody else's, so that its memory is free before its result takes as much.
    if background is None:
        return still_alpha(read_frame(image), matter, mask, selection)
    return compose_still(read_frame(image), matter, background, Look(mask=mask), selection)
