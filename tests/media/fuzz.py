"""A bounded mutation loop over the corpus: ``python -m tests.media.fuzz --seconds 60 --seed 1``.

Each input is damaged at random and given to whatever reads strangers' bytes: Reader, stills,
backgrounds, bundles, manifests of batches, journals.  Anything but success or a ``FuseMatteError``
is a finding: it is kept below ``--findings`` and belongs into the corpus.  A child process does
the work; if it dies or hangs, that is a finding too.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
from tests.helpers import picture
from tests.media.corpus import KINDS, mutate
from tests.media.heif import ENCODERS, photo

from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.jobs.batch import find_items
from fusematte.engine.jobs.journal import FORMAT, Journal, Record
from fusematte.engine.jobs.stills import read_picture
from fusematte.engine.media import segments
from fusematte.engine.media.notices import Notice
from fusematte.engine.media.reader import Reader
from fusematte.engine.models import SHIPPED, load_bundle

HANG = 60.0
"""Seconds of a processor's time after which one input counts as a hang."""
PATIENCE = 900.0
"""The same by the clock, for machines that have other things to do."""
MOST_FRAMES = 200


def read_video(path: Path) -> None:
    """Through the Reader to the end, then cut into segments."""
    with Reader(path) as reader:
        for count, _ in enumerate(reader.items()):
            if count > MOST_FRAMES:
                break
    with Reader(path) as reader:
        segments.plan(reader, 5)


def read_still(path: Path) -> None:
    """As ``matte`` does."""
    read_picture(path)


def read_background(path: Path) -> None:
    """As ``--background`` does."""
    open_background(path).close()


def read_bundle(path: Path) -> None:
    """As ``--model`` does: the manifest of a folder."""
    load_bundle(path.parent)


def read_manifest(path: Path) -> None:
    """As ``batch`` does."""
    find_items(path, path.parent)


def read_journal(path: Path) -> None:
    """As ``--resume`` does."""
    journal = Journal(path.parent)
    try:
        journal.read()
    finally:
        journal.close()


Target = Callable[[Path], None]


def seeds(folder: Path) -> list[tuple[Target, Path, str]]:
    """What is damaged: the target, the file, and the name that it must have."""
    found: list[tuple[Target, Path, str]] = []
    for number, kind in enumerate(KINDS.values()):
        place = folder / f"{number:03d}"
        place.mkdir()
        path = kind.make(place)
        if path.is_file() and path.stat().st_size:
            found.append((read_video, path, path.name))
            found.append((read_background, path, path.name))
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tiff"):
        path = folder / f"still{suffix}"
        cv2.imwrite(str(path), picture(64, 48, 0))
        found += [(read_still, path, path.name), (read_background, path, path.name)] * 5
    for brand in ENCODERS:
        path = folder / f"still.{brand}"
        path.write_bytes(photo(picture(128, 64, 0), brand, tile=(64, 64), quarter_turns=1))
        found += [(read_still, path, path.name), (read_background, path, path.name)] * 5
    return found + documents(folder)


def documents(folder: Path) -> list[tuple[Target, Path, str]]:
    """The seeds that are text."""
    found: list[tuple[Target, Path, str]] = []
    bundle = folder / "bundle"
    shutil.copytree(SHIPPED / "edge", bundle)
    found += [(read_bundle, bundle / "manifest.json", "manifest.json")] * 15
    batch = folder / "batch.txt"
    batch.write_text('a.mp4\n# b\n{"input": "c.mov", "output": "d.mkv", "background": "blur"}\n')
    found += [(read_manifest, batch, batch.name)] * 15
    journal = folder / "journal.jsonl"
    header = {"format": FORMAT, "input": "0f", "options": {}, "spans": [[0, 1]]}
    notice = Notice("%s: changes its size", ("a.mp4",))
    done = [
        Record(index, 9, {"decode": 0.5}, False, [], {"output": 100}, [notice])
        for index in range(3)
    ]
    lines = [header, *(record._asdict() for record in done)]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found += [(read_journal, journal, journal.name)] * 15
    return found


def work(seed: int, link: Connection, folder: Path) -> None:
    """Damages and reads until it is stopped; tells before and after each input."""
    logging.disable(logging.CRITICAL)
    av.logging.set_level(av.logging.PANIC)
    generator = np.random.default_rng(seed)
    (folder / "seeds").mkdir()
    found = seeds(folder / "seeds")
    while True:
        target, source, name = found[int(generator.integers(len(found)))]
        place = source.parent if target is read_bundle else folder / "now"
        place.mkdir(exist_ok=True)
        path = place / name
        whole = (source if target is not read_bundle else SHIPPED / "edge" / name).read_bytes()
        path.write_bytes(mutate(whole, generator))
        link.send((target.__name__, str(path), None))
        said = None
        try:
            target(path)
        except (FuseMatteError, StopIteration):
            pass
        except Exception:
            said = traceback.format_exc()
        link.send((target.__name__, str(path), said or ""))


def main() -> int:
    """Runs for a while; returns 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--share", type=float, default=1.0, help="of one processor")
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    kinds: set[str] = set()
    context, seed = multiprocessing.get_context("spawn"), options.seed
    until = time.monotonic() + options.seconds
    while time.monotonic() < until:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        link, other = context.Pipe()
        child = context.Process(target=work, args=(seed, other, folder), daemon=True)
        child.start()
        other.close()
        last = ("start", "", "")
        try:
            while time.monotonic() < until:
                begun = time.monotonic()
                if not answers(link, child):
                    last = (last[0], last[1], "hang")
                    break
                last = link.recv()
                if last[2] is None:
                    continue
                counts[last[0]] += 1
                if last[2]:
                    keep(options.findings, last, kinds)
                time.sleep((time.monotonic() - begun) * (1 / options.share - 1))
            else:
                last = (last[0], last[1], "")
        except EOFError:
            child.join()
            last = (last[0], last[1], f"died with {child.exitcode}")
        if last[0] != "start" and last[2]:
            keep(options.findings, last, kinds)
        child.kill()
        child.join()
        shutil.rmtree(folder, ignore_errors=True)
        seed += 1_000_003
        print(
            f"{sum(counts.values())} executions, {len(kinds)} findings: {dict(counts)}", flush=True
        )
    return 1 if kinds else 0


def answers(link: Connection, child: BaseProcess) -> bool:
    """Whether the child says something before it counts as hanging."""
    begun, clock = busy(child), time.monotonic()
    while not link.poll(2.0):
        if busy(child) - begun > HANG or time.monotonic() - clock > PATIENCE:
            return False
    return True


def busy(child: BaseProcess) -> float:
    """Seconds of processor time that a child has had."""
    try:
        times = psutil.Process(child.pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def keep(findings: Path, what: tuple[str, str, str | None], kinds: set[str]) -> None:
    """Keeps an input that broke something, one of each kind."""
    target, path, said = what
    end = (said or "").strip().splitlines()[-3:]
    if str((target, end)) in kinds:
        return
    kinds.add(str((target, end)))
    name = f"{target}-{len(kinds)}"
    if Path(path).is_file():
        shutil.copy(path, findings / f"{name}{Path(path).suffix}")
    (findings / f"{name}.txt").write_text(f"{target} {Path(path).name}\n{said}\n")
    print(f"{target}: {end}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
