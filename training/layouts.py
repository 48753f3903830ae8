"""The folder layouts of public data sets.

========================  ==========================================================================
Composition-1k (Adobe)    ``Training_set/{Adobe-licensed images,Other}/{fg,alpha}``,
                          ``Test_set/Adobe-licensed images/{fg,alpha}``; people (and things) cut out
Distinctions-646          ``{Train,Test}/{FG,GT}``; cut out
VideoMatte240K            ``{train,test}/{fgr,pha}/CLIP/FRAME``; cut out, with real motion
P3M-10k                   ``train/{blurred_image,mask}``,
                          ``validation/P3M-500-P/{blurred_image,mask}``,
                          ``validation/P3M-500-NP/{original_image,mask}``
AIM-500                   ``{original,mask}``; a test set
PPM-100                   ``{image,matte}``; a test set
========================  ==========================================================================

A data set may be in the given folder or one or two levels below it.  Any folder of pictures can
serve as backgrounds, but only on request, because nothing checks that they show no people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fusematte.training.errors import DataError
from fusematte.training.samples import PICTURES, Fields, Sample, Source, shard_sources

FRAME_STEP = 30
"""One in so many frames of a video is a sample, because neighbouring frames are too similar."""


@dataclass(frozen=True)
class Part:
    """Two folders of a data set with the same file names: pictures and their alphas.

    cut_out: the pictures are cut-outs; video: they are in folders of numbered frames.
    """

    pictures: str
    alphas: str
    split: str
    cut_out: bool = False
    video: bool = False


LAYOUTS = {
    "Composition-1k": (
        Part(
            "Training_set/Adobe-licensed images/fg",
            "Training_set/Adobe-licensed images/alpha",
            "train",
            True,
        ),
        Part("Training_set/Other/fg", "Training_set/Other/alpha", "train", True),
        Part(
            "Test_set/Adobe-licensed images/fg", "Test_set/Adobe-licensed images/alpha", "val", True
        ),
    ),
    "Distinctions-646": (
        Part("Train/FG", "Train/GT", "train", True),
        Part("Test/FG", "Test/GT", "val", True),
    ),
    "VideoMatte240K": (
        Part("train/fgr", "train/pha", "train", True, True),
        Part("test/fgr", "test/pha", "val", True, True),
    ),
    "P3M-10k": (
        Part("train/blurred_image", "train/mask", "train"),
        Part("validation/P3M-500-P/blurred_image", "validation/P3M-500-P/mask", "val"),
        Part("validation/P3M-500-NP/original_image", "validation/P3M-500-NP/mask", "val"),
    ),
    "AIM-500": (Part("original", "mask", "val"),),
    "PPM-100": (Part("image", "matte", "val"),),
}
"""The parts of each data set, by name."""


def find_sources(folder: Path, *, frame_step: int = FRAME_STEP) -> list[Source]:
    """Finds the sources in a folder: our own shards, or a public data set.

    frame_step: use one in so many frames of a video.

    Raises:
        DataError: there is no such folder, or its layout is unknown.
    """
    if not folder.is_dir():
        raise DataError.at(folder, "no such data folder")
    found = shard_sources(folder)
    for name, parts in LAYOUTS.items():
        for root in (
            folder,
            *_folders(folder),
            *(f for one in _folders(folder) for f in _folders(one)),
        ):
            found += [
                Source(
                    f"{name} {part.pictures}",
                    "people",
                    part.split,
                    partial(_read_part, root, part, frame_step),
                )
                for part in parts
                if (root / part.pictures).is_dir() and (root / part.alphas).is_dir()
            ]
    if not found:
        raise DataError.at(
            folder,
            f"has neither shards (train-*.tar, ...) nor the folders of {', '.join(LAYOUTS)}",
            remedy="for pictures without people use --backgrounds",
        )
    return found


def background_source(folder: Path) -> Source:
    """All pictures in and below a folder, as pictures without people.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError.at(folder, "no such data folder")
    if next(_pictures(folder), None) is None:
        raise DataError.at(folder, f"contains no picture ({', '.join(PICTURES)})")
    return Source(folder.name, "backgrounds", "train", partial(_read_backgrounds, folder))


def object_source(folder: Path) -> Source:
    """All pictures in and below a folder, as cut-out objects that are not people.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """
    return replace(background_source(folder), kind="objects")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _pictures(folder: Path) -> Iterator[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return (path for path in files if path.suffix.lower().removeprefix(".") in PICTURES)


def _name(path: Path, folder: Path) -> str:
    """The path below a folder without suffix; dots, which would end a shard's key, are replaced."""
    relative = path.relative_to(folder).with_suffix("")
    return (relative.parent / relative.name.replace(".", "_")).as_posix()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # reported when it is decoded


def _read_backgrounds(folder: Path) -> Iterator[Sample]:
    for path in _pictures(folder):
        yield _name(path, folder), {path.suffix.lower().removeprefix("."): _read(path)}


def _read_part(root: Path, part: Part, frame_step: int) -> Iterator[Sample]:
    folder = root / part.alphas
    alphas = {_name(path, folder): path for path in _pictures(folder)}
    before: tuple[str, Path] | None = None
    for index, path in enumerate(_pictures(root / part.pictures)):
        name = _name(path, root / part.pictures)
        alpha = alphas.get(name)
        if not part.video or index % frame_step == 0:
            yield (
                name,
                _fields(path, alpha, _frame_before(before, name) if part.video else None, part),
            )
        before = (name, alpha) if alpha else None


def _frame_before(before: tuple[str, Path] | None, name: str) -> Path | None:
    """The previous frame's alpha, if it belongs to the same clip."""
    same = before is not None and before[0].rpartition("/")[0] == name.rpartition("/")[0]
    return before[1] if before and same else None


def _fields(picture: Path, alpha: Path | None, previous: Path | None, part: Part) -> Fields:
    suffix = picture.suffix.lower().removeprefix(".")
    fields = {f"fg.{suffix}" if part.cut_out else suffix: _read(picture)}
    if alpha is not None:
        fields["alpha.png"] = _read(alpha)
    if previous is not None:
        fields["prev.png"] = _read(previous)
    return fields
