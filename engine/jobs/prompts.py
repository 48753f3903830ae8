"""Reads the prompts of a job: from text, from a picture, from a JSON file."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from os import PathLike
from pathlib import Path

import cv2
import numpy as np

from fusematte.engine.errors import InputError, UsageError
from fusematte.engine.frame import Frame, displayed_size
from fusematte.engine.jobs.stills import read_picture
from fusematte.engine.matting.choice import LOST
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Kind, Prompt, Selection, check
from fusematte.engine.media.reader import Reader
from fusematte.engine.pixels.color import as_float

log = logging.getLogger(__name__)

StrPath = str | PathLike[str]

CHUNK = Fraction(1)
"""Seconds of video that are held in memory at a time while it is followed backwards."""
KINDS: tuple[Kind, ...] = ("keep", "drop", "box", "everybody")
"""What a file of prompts may ask for."""


def parse_prompt(kind: Kind, text: str, parse_time: Callable[[str], Fraction]) -> Prompt:
    """Parses a prompt of the command line: ``X,Y[@TIME]``, or ``X,Y,W,H[@TIME]`` for a box.

    Raises:
        UsageError: the text is not a prompt, or it lies outside any picture.
    """
    place, _, time = text.partition("@")
    try:
        numbers = tuple(float(part) for part in place.split(","))
        if len(numbers) != (4 if kind == "box" else 2):
            raise ValueError
        when = parse_time(time) if "@" in text else None
    except ValueError as error:
        form = "X,Y,W,H[@TIME]" if kind == "box" else "X,Y[@TIME]"
        raise UsageError(f"{kind} {text!r} is not a prompt", remedy=f"write {form}") from error
    return Prompt(kind=kind, place=numbers, time=when)


def read_prompts(path: StrPath) -> tuple[Selection, Path | None]:
    """Reads a JSON file of prompts; returns them and the path of the mask it names, if any.

    It holds ``{"prompts": [{"keep": [x, y], "time": seconds}, ...], "mask": "picture.png"}``.
    ``drop``, ``box`` ([x, y, width, height]) and ``everybody`` (true) are written like ``keep``;
    ``time`` and ``mask`` may be left out.

    Raises:
        InputError: it cannot be read.
        UsageError: something in it is invalid.
    """
    try:
        told = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError.at(path, f"cannot be read as JSON: {error}") from error
    if not isinstance(told, dict) or not set(told) <= {"prompts", "mask"}:
        raise UsageError.at(path, 'must be {"prompts": [...]}, with or without a "mask"')
    mask = told.get("mask")
    if mask is not None and not isinstance(mask, str):
        raise UsageError.at(path, "mask must be the name of a picture")
    prompts = parse_prompts(told.get("prompts", []), f"{path}: ")
    return prompts, None if mask is None else Path(path).parent / mask


def parse_prompts(listed: object, where: str = "") -> Selection:
    """Parses the JSON list of prompts that ``read_prompts`` describes.

    where: the beginning of error messages.

    Raises:
        UsageError: a prompt is invalid.
    """
    if not isinstance(listed, list):
        raise UsageError(f"{where}prompts must be a list")
    return tuple(_prompt(one, f"{where}prompt {i}") for i, one in enumerate(listed, start=1))


def _prompt(told: object, where: str) -> Prompt:
    kinds = [kind for kind in KINDS if isinstance(told, Mapping) and kind in told]
    if not isinstance(told, Mapping) or len(kinds) != 1 or not set(told) <= {*kinds, "time"}:
        raise UsageError(f"{where}: must have one of {', '.join(KINDS)}, with or without a time")
    kind, place, time = kinds[0], told[kinds[0]], told.get("time")
    numbers = place if isinstance(place, list) else []
    fits = place is True if kind == "everybody" else all(map(_is_number, numbers))
    if not fits:
        raise UsageError(f"{where}: {place!r} is no value for {kind}")
    if time is not None and not (_is_number(time) and time >= 0):
        raise UsageError(f"{where}: time must be seconds, not {time!r}")
    try:
        return Prompt(
            kind=kind,
            place=tuple(float(value) for value in numbers),
            time=None if time is None else Fraction(str(time)),
        )
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_mask(path: StrPath, height: int, width: int) -> Prompt:
    """Reads a picture that shows white on black what is kept in the first frame.

    Raises:
        InputError: it cannot be read.
        UsageError: it has another size than the video, or nothing in it is white.
    """
    picture = read_picture(path)
    if picture.shape[:2] != (height, width):
        rows, columns = picture.shape[:2]
        raise UsageError.at(
            path,
            f"is {columns}x{rows}, but the picture it belongs to is {width}x{height}",
            option="mask",
        )
    mask = as_float(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) / np.float32(255))
    if mask.max() < 0.5:
        raise UsageError.at(path, "nothing in it is white, so nothing would be kept", option="mask")
    return Prompt(kind="mask", mask=mask)


def choose(
    matter: Matter,
    reader: Reader,
    prompts: Iterable[Prompt],
    mask: StrPath | None,
    reopen: Callable[[], Reader] | None,
) -> None:
    """Sets what a matter keeps for a job.

    If the first prompt is later than the first frame, what it points at is first followed back to
    the beginning: the frames before it pass through the network an additional time.

    Args:
        reader: the job's input, at its beginning.
        reopen: opens the input again; None if it can be read only once: then everybody is kept up
            to the first prompt, with a warning.

    Raises:
        InputError, UsageError: a prompt is invalid; see ``selection.check``.
    """
    size, info, begin = displayed_size(reader.info), reader.info, reader.begin
    start = max(Fraction(0), info.origin - begin) if info.origin else Fraction(0)
    end = None if info.duration is None else start + info.duration
    selection = check(tuple(prompts), size, start, end)
    if mask is not None:
        selection = (read_mask(mask, *size), *selection)
    matter.choose(selection, begin)
    first = selection[0].time if selection else None
    if first is None or first <= start:
        return
    if reopen is None:
        log.warning("everybody is kept before the first prompt: %s is read only once", reader.name)
        return
    with reopen() as again:
        earlier = _followed_back(again, matter, selection, begin + start)
    matter.choose((*earlier, *selection), begin)


def _followed_back(
    reader: Reader, matter: Matter, selection: Selection, start: Fraction
) -> Selection:
    """What is kept before the first prompt, as a mask at the earliest time it can be followed to.

    If what was followed entered the picture at that time, nothing is kept before; if there was a
    cut, everybody is.
    """
    first = selection[0].time
    assert first is not None
    found, entered = None, False
    matter.reset()
    matter.choose([replace(one, time=None) for one in selection if one.time == first])
    for frame in _backwards(reader, start, reader.begin + first):
        # On a clock that runs backwards these frames come in order.
        matte = matter(replace(frame, pts=-frame.pts))
        if matte.doubt or not matter.chooses:
            entered = matte.doubt == LOST
            break
        upright = np.ascontiguousarray(np.rot90(matte.alpha, -(frame.rotation // 90)))
        found = Prompt(kind="mask", mask=upright, time=frame.time - reader.begin)
    matter.reset()
    if found is None:
        return ()
    return (Prompt(kind="nobody"), found) if entered else (found,)


def _backwards(reader: Reader, start: Fraction, last: Fraction) -> Iterator[Frame]:
    """The frames from the first one at or after ``last`` back to ``start``."""
    until, whole = last, False
    while True:
        begin = max(start, until - CHUNK)
        reader.seek(math.floor(begin / reader.time_base))
        frames = []
        for frame in reader:
            if frame.time >= until and whole:
                break
            if frame.time >= begin:
                frames.append(frame)
            if frame.time >= until:
                break
        yield from reversed(frames)
        if begin <= start:
            return
        until, whole = begin, True
