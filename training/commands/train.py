"""``fusematte train``: trains a network; ``fusematte train prepare``: converts data to shards."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusematte.engine.commands.options import Talk, add_json_option, talking
from fusematte.engine.errors import UsageError
from fusematte.training.config import load_config
from fusematte.training.layouts import FRAME_STEP, background_source, find_sources, object_source
from fusematte.training.prepare import Storage, pack, prepare
from fusematte.training.samples import Source

NEEDS = ("torch", "safetensors", "tqdm", "tensorboard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments, and those of ``prepare``."""
    parser.add_argument(
        "--config",
        default="edge",
        metavar="NAME",
        help="edge, paper, ... or a TOML file (%(default)s)",
    )
    _add_data_arguments(parser)
    parser.add_argument("--output", "-o", type=Path, metavar="DIR", help="folder for checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument(
        "--init", metavar="MODEL", help="start from a model or a checkpoint's averaged weights"
    )
    parser.add_argument(
        "--encoder-weights", metavar="FILE", help="start from ImageNet weights: a file, or imagenet"
    )
    parser.add_argument(
        "--objects", type=Path, nargs="+", default=[], metavar="DIR",
        help="cut-out pictures, with alpha channel, of objects that are not people",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="processes that prepare samples (0: a thread; with a GPU one per further core)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="train for N minutes; the schedule is adapted"
    )
    add_json_option(parser)
    actions = parser.add_subparsers(dest="action", metavar="prepare")
    action = actions.add_parser(
        "prepare",
        help="check a data set and convert it to shards",
        description="Makes shards.",
    )
    _add_prepare_arguments(action)


def _add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    _add_data_arguments(parser)
    parser.add_argument("--output", "-o", type=Path, metavar="DIR", help="folder for the shards")
    parser.add_argument(
        "--long-side",
        type=int,
        default=1024,
        metavar="PX",
        help="longest side (%(default)s)",
    )
    parser.add_argument(
        "--objects", type=Path, nargs="+", default=[], metavar="DIR", help="as for train"
    )
    add_json_option(parser)
    parser.add_argument(
        "--pack",
        type=float,
        metavar="MB",
        help="only keep what training needs, and scale pictures down to fit in MB megabytes",
    )
    parser.add_argument(
        "--frame-step", type=int, default=FRAME_STEP, metavar="N",
        help="use one in N frames of videos (%(default)s)",
    )  # fmt: skip


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], metavar="DIR", help="shards or public data sets"
    )
    parser.add_argument(
        "--backgrounds",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="pictures without people",
    )


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks for all
        options.json, options.quiet = False, True
    work = _prepare if options.action == "prepare" else _train
    with talking(options) as talk:
        if not (options.data or (options.action and options.backgrounds)) or not options.output:
            raise UsageError(
                "--data DIR and --output DIR for the result are required", option="data"
            )
        result, text = work(options, talk)
    if talk.lines is not None:
        talk.lines.tell("done", **result)
    elif not options.quiet:
        print(text)
    return 0


Result = tuple[dict[str, Any], str]
"""What was done, for programs and for people."""


def _prepare(options: argparse.Namespace, talk: Talk) -> Result:
    if options.long_side < 32 or options.frame_step < 1:
        raise UsageError("--long-side must be 32 or more, --frame-step 1 or more")
    if options.pack is not None and options.pack <= 0:
        raise UsageError("--pack must be more than 0 megabytes", option="pack")
    sources = _sources(options, frame_step=options.frame_step)
    sources += [object_source(folder) for folder in options.objects]

    def count(samples: int) -> None:
        if talk.progress is not None:
            talk.progress.count(samples, None, "samples")

    if options.pack is None:
        storage, long_side = Storage(options.long_side), None
        prepared = prepare(sources, options.output, storage, count)
    else:
        prepared, long_side = pack(sources, options.output, options.pack, count)
    at_most = f", pictures of at most {long_side} px" if long_side else ""
    facts = {"samples": prepared.samples, "skipped": prepared.skipped, "long_side": long_side}
    shards = [str(path) for path in prepared.shards]
    return {**facts, "shards": shards}, f"{options.output}: {prepared}{at_most}"


def _check(options: argparse.Namespace) -> None:
    """Raises UsageError for options that training cannot use."""
    if options.workers is not None and options.workers < 0:
        raise UsageError("--workers must be 0 or more", option="workers")
    if options.resume and (options.init or options.encoder_weights):
        raise UsageError(
            "--resume continues from its own checkpoint",
            option="resume",
            remedy="leave out --init and --encoder-weights",
        )
    if options.minutes is not None and options.minutes <= 0:
        raise UsageError("--minutes must be above 0", option="minutes")


def _training_sources(options: argparse.Namespace) -> list[Source]:
    """The sources to train on.

    Raises:
        UsageError: there are no people or no rooms among them.
    """
    sources = [source for source in _sources(options) if source.split == "train"]
    kinds = {source.kind for source in sources}
    for kind, what in (("people", "people to train on"), ("backgrounds", "rooms (--backgrounds)")):
        if kind not in kinds:
            raise UsageError(
                f"no {what} in {', '.join(map(str, options.data))}",
                path=options.data[0],
                option="data",
            )
    return [*sources, *(object_source(folder) for folder in options.objects)]


def _train(options: argparse.Namespace, talk: Talk) -> Result:
    _check(options)
    config = load_config(options.config)
    if options.minutes is not None:
        config = replace(config, minutes=options.minutes)
    sources = _training_sources(options)
    try:
        from fusematte.training.train import Step, train
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in NEEDS:
            raise
        raise UsageError(
            f"training needs {error.name}", remedy="pip install 'fusematte[train]'"
        ) from error

    def tell(step: Step) -> None:
        if talk.lines is not None:
            talk.lines.count(
                step.position, step.total, "steps", step=step.number, loss=round(step.loss, 5)
            )

    checkpoint = train(
        config,
        sources,
        options.output,
        resume=options.resume,
        init=options.init,
        encoder_weights=options.encoder_weights,
        workers=options.workers,
        on_step=tell,
    )
    return {"checkpoint": str(checkpoint)}, str(checkpoint)


def _sources(options: argparse.Namespace, *, frame_step: int = FRAME_STEP) -> list[Source]:
    return [
        *(
            source
            for folder in options.data
            for source in find_sources(folder, frame_step=frame_step)
        ),
        *(background_source(folder) for folder in options.backgrounds),
    ]
