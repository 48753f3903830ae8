"""``fusematte evaluate``: scores a model and visualises its maps."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from fusematte.engine.commands.options import Talk, add_backend_options, backend_of, talking
from fusematte.engine.errors import UsageError
from fusematte.engine.jobs.stills import output_paths, read_picture
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.files import make_folder, write_png, write_whole
from fusematte.training.errors import DataError
from fusematte.training.evaluate import (
    FG_BG,
    FUSION,
    Evaluation,
    contact_sheet,
    format_table,
    keeps_rooms_out,
    load_cases,
)
from fusematte.training.explain import explain
from fusematte.training.geometry import Picture
from fusematte.training.layouts import background_source, find_sources
from fusematte.training.samples import Source, load_rooms
from fusematte.training.true_alpha import (
    CLIPS,
    STILLS,
    TrueAlpha,
    engine_model,
    format_true_alpha,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a shipped model or a bundle folder")
    parser.add_argument(
        "data", metavar="DATA", type=Path, nargs="?", help="shards (val-*.tar) or a public test set"
    )
    parser.add_argument(
        "--backgrounds",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="pictures of rooms that the model has not seen",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only use the first N pictures")
    parser.add_argument(
        "--json", dest="scores", nargs="?", const="-", metavar="PATH",
        help="write all scores to PATH; without PATH print progress, scores and errors as JSON, "
        "one object per line, on standard output",
    )  # fmt: skip
    parser.add_argument(
        "--sheet", type=Path, metavar="PNG", help="write a sheet of the best and worst pictures"
    )
    parser.add_argument(
        "--segmentation-model", metavar="MODEL", help="a bundle from the first training step"
    )
    parser.add_argument(
        "--fusion-model", metavar="MODEL", help="a bundle from the second training step"
    )
    parser.add_argument(
        "--explain",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="visualise trimap, bracketing, F, B and beta of pictures",
    )
    parser.add_argument(
        "--output-dir", "-o", type=Path, metavar="DIR", help="folder for --explain (DIR/<stem>.png)"
    )
    add_backend_options(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    options.json = options.scores == "-"
    with talking(options) as talk:
        _evaluate(options, talk)
    return 0


def _evaluate(options: argparse.Namespace, talk: Talk) -> None:
    if options.data is None and not options.explain:
        raise UsageError("give DATA to score the model on, or pictures to --explain")
    if options.explain and options.output_dir is None:
        raise UsageError("--explain needs --output-dir DIR", option="output_dir")
    if options.limit is not None and options.limit < 1:
        raise UsageError("--limit must be 1 or more", option="limit")
    with ExitStack() as stack:

        def open_model(name: str) -> Matter:
            return stack.enter_context(
                Matter(name, backend=backend_of(options), threads=options.threads)
            )

        matter = open_model(options.model)
        if options.explain:
            _explain(options, matter, talk)
        if options.data is not None:
            named = ((FG_BG, options.segmentation_model), (FUSION, options.fusion_model))
            earlier = {row: open_model(name) for row, name in named if name is not None}
            _score(options, matter, earlier, talk)


def _explain(options: argparse.Namespace, matter: Matter, talk: Talk) -> None:
    paths = output_paths(options.explain, options.output_dir)
    make_folder(options.output_dir)
    for image, path in zip(options.explain, paths, strict=True):
        write_png(path, explain(read_picture(image), matter))
        if talk.lines is not None:
            talk.lines.tell("done", input=image, output=str(path))
        elif not options.quiet:
            print(path)


def _score(
    options: argparse.Namespace, matter: Matter, earlier: dict[str, Matter], talk: Talk
) -> None:
    sources = find_sources(options.data)
    others = [background_source(folder) for folder in options.backgrounds]
    # Rooms given by the user count as unseen; of the training data, only held-out rooms do.
    own = [source for source in sources if source.kind == "backgrounds"]
    rooms = load_rooms(own, held_out_only=True) if own and not others else []
    rooms += load_rooms(others, held_out_only=False) if others else []
    tested = [source for source in sources if source.split == "val"]
    people = [source for source in tested if source.kind == "people"]
    scenes = TrueAlpha.load(sources, rooms)
    if not people and scenes is None:
        raise DataError.at(
            options.data,
            "contains no test pictures",
            remedy="give val-*.tar, val-cutouts-*.tar and rooms, or the test part of a data set",
        )
    results: dict[str, Any] = {}
    if people:
        results |= _score_people(options, matter, earlier, people, rooms, talk)
        if talk.lines is None:
            print(format_table(results))
    if scenes is not None:
        if talk.lines is not None:
            talk.lines.tell("stage", stage="scenes with true alpha")
        count = options.limit or STILLS
        results["true_alpha"] = scenes.score(
            engine_model(matter), stills=min(STILLS, count), clips=min(CLIPS, count)
        )
        if talk.lines is None:
            print(format_true_alpha(results["true_alpha"]))
    if talk.lines is not None:
        talk.lines.tell("done", **results)
    elif options.scores is not None:
        write_whole(Path(options.scores), (json.dumps(results, indent=2) + "\n").encode())


def _score_people(
    options: argparse.Namespace,
    matter: Matter,
    earlier: dict[str, Matter],
    people: list[Source],
    rooms: list[Picture],
    talk: Talk,
) -> dict[str, Any]:
    """Scores on pictures of people, whose alphas may be a teacher's."""
    unseen = bool(options.backgrounds) or keeps_rooms_out(matter.bundle)
    evaluation = Evaluation(matter, rooms, earlier, unseen=unseen)
    skipped: list[str] = []
    for number, case in enumerate(islice(load_cases(people, skipped), options.limit), start=1):
        evaluation.add(case)
        if talk.progress is not None:
            talk.progress.count(number, options.limit, "pictures")
    if talk.progress is not None:
        talk.progress.clear()
    for reason in skipped:
        print(f"fusematte: skipped: {reason}", file=sys.stderr)
    if not evaluation.counts:
        raise DataError.at(options.data, "none of its pictures is usable")
    if options.sheet is not None:
        write_png(options.sheet, contact_sheet(evaluation.best, evaluation.worst))
    return evaluation.results | {"skipped": len(skipped)}
