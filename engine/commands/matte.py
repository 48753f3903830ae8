"""``fusematte matte``: the alpha of still pictures, or their people over a new background."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, closing
from pathlib import Path

from fusematte.engine.commands.options import (
    MASK,
    SELECTION,
    Talk,
    add_job_options,
    add_json_option,
    add_model_options,
    backend_of,
    mask_of,
    selection_of,
    talking,
)
from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.look import Look
from fusematte.engine.compositing.stills import compose_still
from fusematte.engine.errors import InputError
from fusematte.engine.jobs.stills import output_paths, read_frame
from fusematte.engine.matting.matter import Matter
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
        "--background", "-b", metavar="BG", default="mask",
        help="new background, as for run: transparent cuts the people out, mask writes the alpha "
        "alone (%(default)s)",
    )  # fmt: skip
    add_job_options(parser, *MASK, *SELECTION)
    add_model_options(parser)
    add_json_option(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    with talking(options) as talk, ExitStack() as stack:
        look, selection = Look(mask=mask_of(options)), selection_of(options)
        paths = output_paths(options.images, options.output_dir)
        background = stack.enter_context(closing(open_background(options.background)))
        make_folder(options.output_dir)
        threads = options.threads or processors()  # nothing else runs beside inference
        matter = stack.enter_context(
            Matter(options.model, backend=backend_of(options), threads=threads)
        )
        code = 0
        for number, (image, path) in enumerate(zip(options.images, paths, strict=True)):
            if talk.progress is not None:
                talk.progress.count(number, len(paths), "pictures")
            try:
                # Neither frame nor result has a name, so that their memory is free for the next.
                write_png(
                    path, compose_still(read_frame(image), matter, background, look, selection)
                )
            except InputError as error:  # the other pictures are still processed
                code = error.exit_code
                _tell(talk, image, error)
            else:
                _tell(talk, image, path)
    return code


def _tell(talk: Talk, image: str, result: Path | InputError) -> None:
    """Tells what became of a picture."""
    if talk.progress is not None:
        talk.progress.clear()
    if talk.lines is not None:
        if isinstance(result, InputError):
            talk.lines.tell("error", input=image, **result.fields())
        else:
            talk.lines.tell("done", input=image, output=str(result))
    elif isinstance(result, InputError):
        print(f"fusematte: {result}", file=sys.stderr)
    elif talk.progress is not None:
        print(result)
