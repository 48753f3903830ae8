"""Real frames for the calibration and the check of exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from fusematte.engine.diagnostics.demo import camera_moves, load_pictures
from fusematte.engine.errors import InputError
from fusematte.engine.frame import Frame, Map
from fusematte.engine.jobs.stills import read_picture
from fusematte.engine.matting.matter import network_input, size_for, small_color
from fusematte.engine.media.reader import Reader
from fusematte.engine.models import Bundle
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.training.errors import DataError
from fusematte.training.samples import decode_gray, decode_image, read_shard

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class Sample(NamedTuple):
    """A network input [1, 3, h, w], RGB, 0..1, with its true alpha [h, w], if known."""

    image: Map
    truth: Map | None


def load_samples(
    sources: Sequence[Path], bundle: Bundle, count: int, size: tuple[int, int] | None = None
) -> list[Sample]:
    """About ``count`` frames, spread evenly over all sources.

    Args:
        sources: videos, pictures, WebDataset tars with ``.webp`` and ``.alpha.png``; if empty, the
            demo's portrait, filmed by a moving camera.
        size: the network's (height, width); None: the size that the engine chooses for each frame.

    Raises:
        InputError: a source cannot be read or has no frame.
    """
    if not sources:
        portrait, _ = load_pictures()
        frames: list[tuple[Frame, Map | None]] = [
            (frame_from_rgb(picture), None) for picture in camera_moves(portrait)
        ]
        return [_sample(*frame, bundle, size) for frame in _spread(frames, count)]
    share = -(-count // len(sources))
    samples = [
        _sample(*frame, bundle, size)
        for source in sources
        for frame in _spread(list(_frames(source)), share)
    ]
    if not samples:
        raise InputError.at(sources[0], "has no frame")
    return samples


def _spread(frames: list[tuple[Frame, Map | None]], count: int) -> list[tuple[Frame, Map | None]]:
    count = min(count, len(frames))
    return [frames[(2 * index + 1) * len(frames) // (2 * count)] for index in range(count)]


def _frames(source: Path) -> Iterator[tuple[Frame, Map | None]]:
    if source.suffix == ".tar":
        yield from _labelled(source)
    elif source.suffix.lower() in PICTURES:
        yield frame_from_rgb(read_picture(source)), None
    else:
        with Reader(source) as reader:
            every = max(1, (reader.frame_count or 1) // 64)
            for index, frame in enumerate(reader):
                if index % every == 0:
                    yield frame, None


def _labelled(shard: Path) -> Iterator[tuple[Frame, Map | None]]:
    try:
        for name, fields in read_shard(shard):
            frame = frame_from_rgb(decode_image(fields["webp"], name))
            truth = decode_gray(fields["alpha.png"], name)
            yield frame, np.asarray(truth / 255, np.float32)
    except (OSError, KeyError, DataError) as error:
        raise InputError.at(shard, f"is not a shard with .webp and .alpha.png: {error}") from error


def _sample(
    frame: Frame, truth: Map | None, bundle: Bundle, size: tuple[int, int] | None
) -> Sample:
    height, width = size or size_for(frame, bundle)
    image = network_input(frame, small_color(frame, height, width))
    if truth is None:
        return Sample(image, None)
    small = cv2.resize(truth, (width, height), interpolation=cv2.INTER_AREA)
    return Sample(image, np.asarray(small, np.float32))
