"""Checks a data set and writes it as shards: ``fusematte train prepare``."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from fusematte.engine.errors import OutputError
from fusematte.training.errors import DataError
from fusematte.training.geometry import Picture
from fusematte.training.samples import (
    Fields,
    Sample,
    Source,
    attempt,
    decode_alpha,
    decode_gray,
    decode_picture,
    shrink,
)

log = logging.getLogger(__name__)

SHARD_SAMPLES = 1000
"""Samples in one shard, at most."""
WEBP_QUALITY = 95


@dataclass
class Prepared:
    """What came of it: shards and samples written, by shard stem; the reasons of skipped ones."""

    shards: list[Path] = field(default_factory=list)
    samples: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {stem}" for stem, count in self.samples.items()) or "nothing"
        return f"{counts} in {len(self.shards)} shards, {len(self.skipped)} samples skipped"


def prepare(sources: list[Source], output: Path, *, long_side: int) -> Prepared:
    """Writes every good sample into ``train-*.tar``, ``val-*.tar`` or ``backgrounds-*.tar``.

    Pictures are shrunk to ``long_side`` where they are larger and stored as WebP, alphas as PNG.
    Samples that cannot be used are named and left out: files that are missing or no pictures,
    sizes that differ, mattes with nobody in them.

    Raises:
        DataError: no sample can be used.
        OutputError: the shards cannot be written.
    """
    prepared = Prepared()
    stems = {_stem(source): [s for s in sources if _stem(s) == _stem(source)] for source in sources}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for stem, members in stems.items():
            _write_shards(stem, members, output, long_side, prepared)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error
    if not prepared.samples:
        raise DataError(
            f"none of {len(prepared.skipped)} samples could be used: {prepared.skipped[0]}"
        )
    return prepared


def _stem(source: Source) -> str:
    return "backgrounds" if source.kind == "backgrounds" else source.split


def _write_shards(
    stem: str, sources: Iterable[Source], output: Path, long_side: int, prepared: Prepared
) -> None:
    people = stem != "backgrounds"
    shard: _Shard | None = None

    def make(name: str, fields: Fields) -> Sample:
        return name, _clean(name, fields, long_side, people=people)

    try:
        for source, result in attempt(sources, make):
            if isinstance(result, DataError):
                log.warning("skipped: %s: %s", source.name, result)
                prepared.skipped.append(f"{source.name}: {result}")
                continue
            if shard is None or shard.count == SHARD_SAMPLES:
                if shard is not None:
                    shard.finish()
                shard = _Shard(
                    output
                    / f"{stem}-{sum(p.name.startswith(stem) for p in prepared.shards):05}.tar"
                )
                prepared.shards.append(shard.path)
            shard.add(f"{source.name.split()[0]}/{result[0]}", result[1])
            prepared.samples[stem] = prepared.samples.get(stem, 0) + 1
        if shard is not None:
            shard.finish()
    except BaseException:
        if shard is not None:
            shard.discard()
        raise


class _Shard:
    """A tar that appears under its name when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial, self.count = path, path.with_name(f"{path.name}.part"), 0
        self.archive = tarfile.open(self.partial, "w")  # noqa: SIM115

    def add(self, name: str, fields: Fields) -> None:
        for suffix, data in fields.items():
            member = tarfile.TarInfo(f"{name}.{suffix}")
            member.size = len(data)
            self.archive.addfile(member, io.BytesIO(data))
        self.count += 1

    def finish(self) -> None:
        self.archive.close()
        self.partial.replace(self.path)

    def discard(self) -> None:
        with suppress(OSError):
            self.archive.close()
        self.partial.unlink(missing_ok=True)


def _clean(name: str, fields: Fields, long_side: int, *, people: bool) -> Fields:
    """The files of a sample, checked, at most ``long_side`` pixels long."""
    image, photograph = decode_picture(fields, name)
    cleaned = {"webp" if photograph else "fg.webp": _webp(shrink(image, long_side))}
    if not people:
        return cleaned
    alpha = decode_alpha(fields, name)
    if alpha.max() < 128:
        raise DataError(f"{name}: nobody in its alpha")
    for part in ("alpha.png", "mask.png", "prev.png"):
        if part not in fields:
            continue
        matte = decode_gray(fields[part], name)
        if matte.shape != image.shape[:2]:
            raise DataError(
                f"{name}: picture {image.shape[:2]} and {part} {matte.shape} differ in size"
            )
        cleaned[part] = _png(shrink(matte, long_side))
    return cleaned | ({"json": fields["json"]} if "json" in fields else {})


def _webp(image: Picture) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])[1].tobytes()


def _png(matte: Picture) -> bytes:
    return cv2.imencode(".png", matte)[1].tobytes()
