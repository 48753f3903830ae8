"""Checks a data set and writes it as shards: ``fusematte train prepare``."""

from __future__ import annotations

import io
import logging
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from fusematte.engine.errors import OutputError, reason_of
from fusematte.engine.media.files import part_of
from fusematte.training.errors import DataError
from fusematte.training.geometry import Picture
from fusematte.training.samples import (
    SHARDS,
    Fields,
    Sample,
    Source,
    attempt,
    check_sizes,
    decode_alpha,
    decode_gray,
    decode_picture,
    make_object,
    shrink,
)

log = logging.getLogger(__name__)

SHARD_SAMPLES = 1000
"""Maximum number of samples in a shard."""
PACKED_SIDE, SMALLEST_PACKED = 448, 96
"""Largest and smallest longer side, in pixels, that ``pack`` tries."""
PACKED_QUALITY = 75
ESTIMATED = 300
"""So many samples are written first, to see how large all of them will be."""


Count = Callable[[int], None]
"""Called with the number of samples written so far."""


@dataclass
class Prepared:
    """The result: shards, number of samples by shard stem, reasons for skipped samples."""

    shards: list[Path] = field(default_factory=list)
    samples: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def megabytes(self) -> float:
        """The size of the shards, in 10^6 bytes."""
        return sum(path.stat().st_size for path in self.shards) / 1e6

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {stem}" for stem, count in self.samples.items()) or "nothing"
        return f"{counts} in {len(self.shards)} shards, {len(self.skipped)} samples skipped"


@dataclass(frozen=True)
class Storage:
    """How pictures are stored: maximum of the longer side in pixels, WebP quality, 1..100; lean:
    only the files that training needs."""

    long_side: int
    quality: int = 95
    lean: bool = False

    @property
    def suffix(self) -> str:
        """Of the shards.  Of small pictures a tar is half padding, which compression takes away."""
        return ".tar.gz" if self.lean else ".tar"


def prepare(
    sources: list[Source], output: Path, storage: Storage, count: Count | None = None
) -> Prepared:
    """Writes every good sample into ``train-*.tar``, ``val-cutouts-*.tar``, ... (``SHARDS``).

    Pictures are scaled down if necessary and stored as WebP, alphas as PNG.  Unusable samples are
    logged and skipped: missing or unreadable files, different sizes, empty mattes.  ``count`` is
    called after each good one.

    Raises:
        DataError: no sample can be used.
        OutputError: the shards cannot be written.
    """
    prepared = Prepared()
    stems = {_stem(source): [s for s in sources if _stem(s) == _stem(source)] for source in sources}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for stem, members in stems.items():
            _write_shards(stem, members, output, storage, prepared, count)
    except OSError as error:
        raise OutputError.at(output, f"cannot be written: {reason_of(error)}") from error
    if not prepared.samples:
        raise DataError(
            f"none of {len(prepared.skipped)} samples could be used: {prepared.skipped[0]}"
        )
    return prepared


def pack(
    sources: list[Source],
    output: Path,
    megabytes: float,
    count: Count | None = None,
) -> tuple[Prepared, int]:
    """Writes the data of a training run within a size limit, for transfer to another machine;
    returns the result and the longer side of the pictures.

    The pictures are scaled down until all of them fit; a part of them tells how far.

    Raises:
        DataError, OutputError: as ``prepare``; or even the smallest pictures do not fit.
    """
    chosen = [source for source in sources if source.split == "train"]
    total = sum(1 for source in chosen for _ in source.read())
    step = max(1, total // ESTIMATED)
    part = [replace(source, read=partial(_some, source.read, step)) for source in chosen]
    long_side, estimated = PACKED_SIDE, False
    while long_side >= SMALLEST_PACKED:
        storage = Storage(long_side, PACKED_QUALITY, lean=True)
        if not estimated:
            with tempfile.TemporaryDirectory(prefix="fusematte-") as folder:
                size = step * prepare(part, Path(folder), storage).megabytes
            log.info("%d px: about %.0f MB", long_side, size)
            estimated = size <= megabytes
        if estimated:
            prepared = prepare(chosen, output, storage, count)
            size = prepared.megabytes
            if size <= megabytes:
                return prepared, long_side
            log.info("%d px: %.1f MB, over the limit", long_side, size)
            for path in prepared.shards:
                path.unlink()
        long_side = min(long_side - 8, int(long_side * (megabytes / size) ** 0.6))
    raise DataError.at(
        output, f"pictures of {SMALLEST_PACKED} px do not fit in {megabytes:g} MB", option="pack"
    )


def _some(read: Callable[[], Iterator[Sample]], step: int) -> Iterator[Sample]:
    """One sample of ``step``."""
    return islice(read(), step // 2, None, step)


def _stem(source: Source) -> str:
    """The first name in SHARDS for the source's kind and split."""
    return next(stem for stem, what in SHARDS.items() if what == (source.kind, source.split))


def _write_shards(
    stem: str,
    sources: Iterable[Source],
    output: Path,
    storage: Storage,
    prepared: Prepared,
    count: Count | None,
) -> None:
    clean = {"backgrounds": _clean_room, "objects": _clean_thing}.get(stem, _clean_people)
    shard: _Shard | None = None
    written = 0

    def make(name: str, fields: Fields) -> Sample:
        return name, clean(name, fields, storage)

    try:
        for source, result in attempt(sources, make):
            if isinstance(result, DataError):
                log.warning("skipped: %s: %s", source.name, result)
                prepared.skipped.append(f"{source.name}: {result}")
                continue
            if shard is None or shard.count == SHARD_SAMPLES:
                if shard is not None:
                    shard.finish()
                shard = _Shard(output / f"{stem}-{written:05}{storage.suffix}")
                prepared.shards.append(shard.path)
                written += 1
            shard.add(f"{source.name.split()[0]}/{result[0]}", result[1])
            prepared.samples[stem] = prepared.samples.get(stem, 0) + 1
            if count is not None:
                count(sum(prepared.samples.values()))
        if shard is not None:
            shard.finish()
    except BaseException:
        if shard is not None:
            shard.discard()
        raise


class _Shard:
    """A tar file that gets its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial, self.count = path, part_of(path), 0
        self.archive = tarfile.open(self.partial, "w:gz" if path.suffix == ".gz" else "w")  # noqa: SIM115

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


def _clean_room(name: str, fields: Fields, storage: Storage) -> Fields:
    return {"webp": _webp(decode_picture(fields, name)[0], storage)}


def _clean_thing(name: str, fields: Fields, storage: Storage) -> Fields:
    thing = make_object(name, fields, storage.long_side)
    return {"webp": _webp(np.dstack([thing.foreground, thing.alpha]), storage)}


def _clean_people(name: str, fields: Fields, storage: Storage) -> Fields:
    """The files of a sample, checked."""
    image, photograph = decode_picture(fields, name)
    cleaned = {"webp" if photograph else "fg.webp": _webp(image, storage)}
    trusted = decode_alpha(fields, name)
    if trusted.max() < 128:
        raise DataError.at(name, "its alpha is empty")
    # Training does not need a mask that equals the alpha.
    masked = "mask.png" in fields and not np.array_equal(
        trusted, decode_gray(fields["alpha.png"], name)
    )
    parts = ["alpha.png", *(["mask.png"] if masked or not storage.lean else []), "prev.png"]
    for part in (part for part in parts if part in fields):
        matte = decode_gray(fields[part], name)
        check_sizes(name, image, {part: matte})
        cleaned[part] = _png(shrink(matte, storage.long_side))
    return cleaned | ({"json": fields["json"]} if "json" in fields else {})


def _webp(image: Picture, storage: Storage) -> bytes:
    order = cv2.COLOR_RGB2BGR if image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    bgr = cv2.cvtColor(shrink(image, storage.long_side), order)
    return cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, storage.quality])[1].tobytes()


def _png(matte: Picture) -> bytes:
    return cv2.imencode(".png", matte)[1].tobytes()
