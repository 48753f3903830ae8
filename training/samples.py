"""Training samples: portraits, cut-outs, rooms, objects, and their sources.

A sample is a name and its files by suffix.  A ``Source`` reads them from WebDataset tars or from
the folders of a public data set (see ``layouts``).  Needs no torch.

========================  ======================================================================
``webp``, ``jpg``, ...     a photograph
``fg.webp``, ``fg.png``    instead of it: a cut-out, with valid colours where alpha is above 0
``alpha.png``              its matte, 8 bits
``mask.png``               a hard mask made by hand (optional)
``prev.png``               the matte of the previous frame (optional)
``json``                   ``source``; ``teacher_iou``: agreement of teacher and mask; ``exact``:
                           the alpha of a photograph is ground truth (optional; without json it is)
========================  ======================================================================
"""

from __future__ import annotations

import json
import logging
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from fusematte.cpp_ext import estimate_foreground
from fusematte.training.errors import DataError
from fusematte.training.geometry import Picture
from fusematte.training.scenes import CutOut

log = logging.getLogger(__name__)

Fields = dict[str, bytes]
Sample = tuple[str, Fields]
Made = TypeVar("Made")

PICTURES = ("webp", "jpg", "jpeg", "png", "bmp", "tif", "tiff")
"""Suffixes of files that are pictures."""
FOREGROUND_RADII = (45, 3)
"""Radii of the two passes of blur-fusion foreground estimation."""
MINIMUM_TEACHER_AGREEMENT = 0.8
"""Below this IoU of teacher and human mask, the human mask is used as ground truth."""
MOST_PIXELS = 1024
"""Maximum longer side of rooms, objects and cut-outs, which scenes show at any size."""
PORTION = 64
"""Number of samples read at a time before they are decoded."""
HELD_OUT_SHARE = 20
"""One in so many rooms is held out of training, for ``evaluate``."""


@dataclass(frozen=True)
class Portrait:
    """A picture of people and its matte.

    ``image``, ``foreground``: [H, W, 3] RGB; ``alpha``, ``previous``: [H, W], 0..255.
    ``foreground`` is the foreground colour: estimated from a photograph, or given for cut-outs,
    which have no ``image``.  ``previous`` is the previous frame's alpha, if the source is a video.
    ``exact``: alpha is ground truth in the transition as well, not a teacher's estimate.
    ``source``: the data set it comes from, as its json says.
    """

    name: str
    image: Picture | None
    foreground: Picture
    alpha: Picture
    previous: Picture | None
    exact: bool = True
    source: str = ""

    @property
    def cutout(self) -> CutOut:
        """The portrait as a cut-out."""
        return CutOut(self.foreground, self.alpha, self.exact)


@dataclass(frozen=True)
class Source:
    """The samples of one shard or of one part of a data set, in a fixed order.

    kind: ``people``, ``cutouts`` (for composed scenes), ``backgrounds`` or ``objects``; split:
    ``train`` or ``val``.
    read: yields the samples; raises DataError at a damaged place.
    """

    name: str
    kind: str
    split: str
    read: Callable[[], Iterator[Sample]]


def read_shard(path: Path) -> Iterator[Sample]:
    """Yields (key, {suffix: bytes}) for each sample of a WebDataset tar, in its order.

    A key ends at the first dot of the file name; dots in folder names are part of it.

    Raises:
        DataError: the tar is damaged; the samples before that were yielded.
    """
    key = ""
    fields: Fields = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is None:
                    continue
                folder, slash, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                name = folder + slash + stem
                if name != key and fields:
                    yield key, fields
                    fields = {}
                key = name
                fields[suffix] = stream.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError.at(
            path, f"the tar cannot be read after {key or 'its start'!r}: {error}"
        ) from error
    if fields:
        yield key, fields


SHARDS = {
    "train": ("people", "train"),
    "train-cutouts": ("cutouts", "train"),
    "extra": ("people", "train"),
    "extra-cutouts": ("cutouts", "train"),
    "val": ("people", "val"),
    "val-cutouts": ("cutouts", "val"),
    "backgrounds": ("backgrounds", "train"),
    "objects": ("objects", "train"),
}
"""Kind and split by the stem of a shard's name."""


def shard_sources(folder: Path) -> list[Source]:
    """The shards in a folder, such as ``train-00.tar`` or ``val-cutouts-00.tar.gz``."""
    return [
        Source(path.name, *SHARDS[stem], read=lambda path=path: read_shard(path))  # type: ignore[misc]
        for stem in SHARDS
        for path in sorted(folder.glob(f"{stem}-[0-9]*"))
        if path.name.endswith((".tar", ".tar.gz"))
    ]


# --- decoding -------------------------------------------------------------------------------------


def _decode(data: bytes, flags: int, where: str) -> Picture:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if picture is None:
        raise DataError.at(where, "not a picture")
    return np.asarray(picture, np.uint8)


def decode_image(data: bytes, where: str) -> Picture:
    """Decodes a colour picture: [H, W, 3], RGB."""
    return np.asarray(cv2.cvtColor(_decode(data, cv2.IMREAD_COLOR, where), cv2.COLOR_BGR2RGB))


def decode_gray(data: bytes, where: str) -> Picture:
    """Decodes a one-channel picture: [H, W]."""
    return _decode(data, cv2.IMREAD_GRAYSCALE, where)


def shrink(picture: Picture, long_side: int) -> Picture:
    """Area-averages a picture so that its longer side is at most ``long_side`` pixels."""
    height, width = picture.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def foreground_colour(image: Picture, alpha: Picture) -> Picture:
    """The estimated foreground colour: [H, W, 3]."""
    color = np.asarray(image.transpose(2, 0, 1) / 255, np.float32)
    radii = [min(radius, *alpha.shape) for radius in FOREGROUND_RADII]
    estimate, _ = estimate_foreground(color, np.asarray(alpha / 255, np.float32), radii)
    return (estimate * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0).copy()


def decode_picture(fields: Fields, where: str) -> tuple[Picture, bool]:
    """The picture of a sample, [H, W, 3], and whether it is a photograph, not a cut-out.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    for prefix, photograph in (("", True), ("fg.", False)):
        for suffix in PICTURES:
            if prefix + suffix in fields:
                return decode_image(fields[prefix + suffix], where), photograph
    raise DataError.at(where, f"no picture ({', '.join(PICTURES)})")


def decode_alpha(fields: Fields, where: str) -> Picture:
    """The ground truth of a sample, [H, W]: its matte, or its mask if the teacher is unreliable.

    Raises:
        DataError: there is none, or a file is damaged.
    """
    agreement = describe(fields, where).get("teacher_iou")
    trusted = agreement is None or agreement >= MINIMUM_TEACHER_AGREEMENT
    name = "alpha.png" if trusted or "mask.png" not in fields else "mask.png"
    if name not in fields:
        raise DataError.at(where, f"no {name}")
    return decode_gray(fields[name], where)


def describe(fields: Fields, where: str) -> dict[str, float | None]:
    """The sample's json; empty if there is none."""
    try:
        described = json.loads(fields.get("json", b"{}"))
    except ValueError as error:
        raise DataError.at(where, f"its json is damaged: {error}") from error
    if not isinstance(described, dict):
        raise DataError.at(where, "its json is damaged: not an object")
    return described


def check_sizes(name: str, image: Picture, parts: Mapping[str, Picture | None]) -> None:
    """Raises DataError if a part of a sample has another size than its picture."""
    size = image.shape[:2]
    for part, picture in parts.items():
        if picture is not None and picture.shape != size:
            raise DataError.at(name, f"picture {size} and {part} {picture.shape} differ in size")


def make_portrait(name: str, fields: Fields, long_side: int) -> Portrait:
    """Decodes one sample, scaled down to a longer side of ``long_side`` pixels.

    Raises:
        DataError: a file is missing or unreadable, or picture and alpha differ in size.
    """
    image, photograph = decode_picture(fields, name)
    alpha = decode_alpha(fields, name)
    previous = decode_gray(fields["prev.png"], name) if "prev.png" in fields else None
    check_sizes(name, image, {"alpha": alpha, "prev.png": previous})
    image, alpha = shrink(image, long_side), shrink(alpha, long_side)
    if previous is not None:
        previous = shrink(previous, long_side)
    described = describe(fields, name)
    source = str(described.get("source", ""))
    if not photograph:
        return Portrait(name, None, image, alpha, previous, source=source)
    exact = "json" not in fields or bool(described.get("exact"))
    foreground = foreground_colour(image, alpha)
    return Portrait(name, image, foreground, alpha, previous, exact, source)


def make_background(name: str, fields: Fields, long_side: int) -> Picture:
    """Decodes a picture without people, [H, W, 3].

    Raises:
        DataError: there is none, or it cannot be read.
    """
    return shrink(decode_picture(fields, name)[0], long_side)


def make_object(name: str, fields: Fields, long_side: int) -> CutOut:
    """Decodes a cut-out object, scaled down to a longer side of ``long_side`` pixels.

    Raises:
        DataError: there is no picture, or it has no alpha channel.
    """
    data = next((fields[suffix] for suffix in PICTURES if suffix in fields), b"")
    picture = shrink(_decode(data, cv2.IMREAD_UNCHANGED, name), long_side)
    if picture.ndim != 3 or picture.shape[2] != 4:
        raise DataError.at(name, "is not a cut-out: it has no alpha channel")
    rgba = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA), np.uint8)
    return CutOut(rgba[..., :3].copy(), rgba[..., 3].copy())


def is_held_out(name: str) -> bool:
    """Whether the room with this name is held out of training, regardless of its folder."""
    return zlib.crc32(name.rpartition("/")[2].encode()) % HELD_OUT_SHARE == 0


# --- loading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """The decoded training data: portraits (photographs or cut-outs), cut-outs for composed scenes,
    rooms without people, objects."""

    portraits: list[Portrait]
    cutouts: list[CutOut]
    rooms: list[Picture]
    things: list[CutOut]


def load_material(sources: Sequence[Source], long_side: int) -> Material:
    """Decodes all samples, portraits scaled down to a longer side of ``long_side`` pixels.
    Unusable samples are logged and skipped; held-out rooms are left out.

    Raises:
        DataError: there are sources of a kind, but none of their samples is usable.
    """

    def portrait(name: str, fields: Fields) -> Portrait:
        return make_portrait(name, fields, long_side)

    def room(name: str, fields: Fields) -> Picture | None:
        return None if is_held_out(name) else make_background(name, fields, MOST_PIXELS)

    def of(kind: str) -> list[Source]:
        return [source for source in sources if source.kind == kind]

    return Material(
        _load(of("people"), portrait, "portraits"),
        load_cutouts(of("cutouts")),
        _load(of("backgrounds"), room, "rooms"),
        load_things(of("objects")),
    )


def load_cutouts(sources: Sequence[Source]) -> list[CutOut]:
    """Decodes cut-outs of people for scenes, as ``load_material`` does."""

    def make(name: str, fields: Fields) -> CutOut:
        return make_portrait(name, fields, MOST_PIXELS).cutout

    return _load(sources, make, "cut-outs")


def load_things(sources: Sequence[Source]) -> list[CutOut]:
    """Decodes cut-outs of objects, as ``load_material`` does."""

    def make(name: str, fields: Fields) -> CutOut:
        return make_object(name, fields, MOST_PIXELS)

    return _load(sources, make, "things")


def load_rooms(sources: Iterable[Source], *, held_out_only: bool) -> list[Picture]:
    """Decodes pictures without people for evaluation, at full size, [H, W, 3] RGB each: all of
    them, or those held out of training."""

    def make(name: str, fields: Fields) -> Picture | None:
        return make_background(name, fields, 1 << 14) if wanted(name) else None

    def wanted(name: str) -> bool:
        return is_held_out(name) or not held_out_only

    return _load(sources, make, "backgrounds held out of training" if held_out_only else "rooms")


def _load(
    sources: Iterable[Source], make: Callable[[str, Fields], Made | None], what: str
) -> list[Made]:
    made: list[Made] = []
    skipped = 0
    for source, result in attempt(sources, make):
        if isinstance(result, DataError):
            log.warning("skipped: %s: %s", source.name, result)
            skipped += 1
        elif result is not None:
            made.append(result)
    if skipped:
        log.warning("%d samples skipped, %d %s loaded", skipped, len(made), what)
    if skipped and not made:
        raise DataError(f"no {what}: none of {skipped} samples could be used")
    return made


def attempt(
    sources: Iterable[Source], make: Callable[[str, Fields], Made]
) -> Iterator[tuple[Source, Made | DataError]]:
    """Applies ``make`` to all samples in threads; results and DataErrors are yielded in order."""

    def safely(sample: Sample | DataError) -> Made | DataError:
        if isinstance(sample, DataError):
            return sample
        try:
            return make(*sample)
        except DataError as error:
            return error

    with ThreadPoolExecutor() as pool:
        for source in sources:
            samples = _until_it_breaks(source)
            # In portions, because the files of a whole data set do not fit in memory.
            while portion := list(islice(samples, PORTION)):
                for result in pool.map(safely, portion):
                    yield source, result


def _until_it_breaks(source: Source) -> Iterator[Sample | DataError]:
    try:
        yield from source.read()
    except DataError as error:
        yield error
