"""``fusematte train``: trains a network; ``fusematte train prepare``: converts data to shards."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

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
        "--objects",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="cut-out pictures, with alpha channel, of objects that are not people",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that prepare samples (0: a thread; with a GPU one per further core)",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="train for N minutes; the schedule is adapted"
    )
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
    if not (options.data or (options.action and options.backgrounds)) or options.output is None:
        raise UsageError("--data DIR with the data and --output DIR for the result are required")
    return _prepare(options) if options.action == "prepare" else _train(options)


def _prepare(options: argparse.Namespace) -> int:
    if options.long_side < 32 or options.frame_step < 1:
        raise UsageError("--long-side must be 32 or more, --frame-step 1 or more")
    if options.pack is not None and options.pack <= 0:
        raise UsageError("--pack must be more than 0 megabytes")
    sources = _sources(options, frame_step=options.frame_step)
    sources += [object_source(folder) for folder in options.objects]
    if options.pack is None:
        prepared, long_side = prepare(sources, options.output, Storage(options.long_side)), None
    else:
        prepared, long_side = pack(sources, options.output, options.pack)
    if not options.quiet:
        at_most = f", pictures of at most {long_side} px" if long_side else ""
        print(f"{options.output}: {prepared}{at_most}")
    return 0


def _train(options: argparse.Namespace) -> int:
    if options.workers is not None and options.workers < 0:
        raise UsageError("--workers must be 0 or more")
    if options.resume and (options.init or options.encoder_weights):
        raise UsageError(
            "--resume continues from its own checkpoint; leave out --init and --encoder-weights"
        )
    config = load_config(options.config)
    if options.minutes is not None:
        if options.minutes <= 0:
            raise UsageError("--minutes must be above 0", option="minutes")
        config = replace(config, minutes=options.minutes)
    sources = [source for source in _sources(options) if source.split == "train"]
    kinds = {source.kind for source in sources}
    for kind, what in (("people", "people to train on"), ("backgrounds", "rooms (--backgrounds)")):
        if kind not in kinds:
            raise UsageError(f"no {what} in {', '.join(map(str, options.data))}")
    sources += [object_source(folder) for folder in options.objects]
    try:
        from fusematte.training.train import train
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in NEEDS:
            raise
        raise UsageError(f"training needs {error.name}; pip install 'fusematte[train]'") from error
    checkpoint = train(
        config,
        sources,
        options.output,
        resume=options.resume,
        init=options.init,
        encoder_weights=options.encoder_weights,
        workers=options.workers,
    )
    if not options.quiet:
        print(checkpoint)
    return 0


def _sources(options: argparse.Namespace, *, frame_step: int = FRAME_STEP) -> list[Source]:
    return [
        *(
            source
            for folder in options.data
            for source in find_sources(folder, frame_step=frame_step)
        ),
        *(background_source(folder) for folder in options.backgrounds),
    ]
