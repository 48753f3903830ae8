"""Training samples: shards read into memory, and an endless, repeatable stream made from them.

Sample number i of a stream depends on the seed and on i alone, so that a run continues exactly
where its checkpoint left it, with any number of loader workers.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fusematte.cpp_ext import estimate_foreground

Picture = NDArray[np.uint8]
Sample = TypeVar("Sample")

FOREGROUND_RADII = (45, 3)
"""Of the two passes of blur fusion that estimate the colour of the people."""
MINIMUM_TEACHER_AGREEMENT = 0.8
"""Below this IoU of teacher and human mask, the human mask is the truth."""


class DataError(ValueError):
    """The data folder or a sample in it cannot be used; the message names it."""


@dataclass(frozen=True)
class Portrait:
    """A picture of people and its matte.

    ``image``, ``foreground``: [H, W, 3] RGB; ``alpha``, ``previous``: [H, W], 0..255.
    ``foreground`` is the estimated colour of the people alone; ``previous`` is the alpha of the
    frame before, where the source is a video.
    """

    name: str
    image: Picture
    foreground: Picture
    alpha: Picture
    previous: Picture | None


def read_shard(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields (key, {suffix: bytes}) for each sample of a WebDataset tar, in its order.

    A key ends at the first dot of the file's own name; dots in folder names are part of it.
    """
    key = ""
    fields: dict[str, bytes] = {}
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
    if fields:
        yield key, fields


def _decode(data: bytes, flags: int, where: str) -> Picture:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if picture is None:
        raise DataError(f"{where}: not a picture")
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
    """The estimated colour of the people alone: [H, W, 3]."""
    color = np.asarray(image.transpose(2, 0, 1) / 255, np.float32)
    radii = [min(radius, *alpha.shape) for radius in FOREGROUND_RADII]
    estimate, _ = estimate_foreground(color, np.asarray(alpha / 255, np.float32), radii)
    return (estimate * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0).copy()


def _alpha_of(fields: dict[str, bytes], where: str) -> Picture:
    try:
        agreement = json.loads(fields.get("json", b"{}")).get("teacher_iou")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{where}: its json is damaged: {error}") from error
    trusted = agreement is None or agreement >= MINIMUM_TEACHER_AGREEMENT
    name = "alpha.png" if trusted or "mask.png" not in fields else "mask.png"
    if name not in fields:
        raise DataError(f"{where}: no {name}")
    return decode_gray(fields[name], where)


def make_portrait(name: str, fields: dict[str, bytes], long_side: int) -> Portrait:
    """Decodes one sample of a shard, at most ``long_side`` pixels long.

    Raises:
        DataError: a file is missing or unreadable, or picture and alpha differ in size.
    """
    image, alpha = _image_of(fields, name), _alpha_of(fields, name)
    previous = decode_gray(fields["prev.png"], name) if "prev.png" in fields else None
    for part, shape in (("alpha", alpha.shape), ("prev.png", getattr(previous, "shape", None))):
        if shape not in (None, image.shape[:2]):
            raise DataError(f"{name}: picture {image.shape[:2]} and {part} {shape} differ in size")
    image, alpha = shrink(image, long_side), shrink(alpha, long_side)
    if previous is not None:
        previous = shrink(previous, long_side)
    return Portrait(name, image, foreground_colour(image, alpha), alpha, previous)


def load_portraits(shards: list[Path], long_side: int) -> list[Portrait]:
    """Decodes every sample of the shards; samples that cannot be used are named and skipped."""
    return _decode_samples(shards, lambda name, fields: make_portrait(name, fields, long_side))


def load_backgrounds(shards: list[Path], long_side: int) -> list[Picture]:
    """Decodes the pictures without people, [H, W, 3] RGB each; bad ones are named and skipped."""

    def make(name: str, fields: dict[str, bytes]) -> Picture:
        return shrink(_image_of(fields, name), long_side)

    return _decode_samples(shards, make)


def _image_of(fields: dict[str, bytes], where: str) -> Picture:
    if "webp" not in fields:
        raise DataError(f"{where}: no webp picture")
    return decode_image(fields["webp"], where)


def _decode_samples(
    shards: list[Path], make: Callable[[str, dict[str, bytes]], Sample]
) -> list[Sample]:
    def attempt(item: tuple[str, dict[str, bytes]]) -> Sample | DataError:
        try:
            return make(*item)
        except DataError as error:
            return error

    samples: list[Sample] = []
    with ThreadPoolExecutor() as pool:
        for shard in shards:
            for result in pool.map(attempt, read_shard(shard)):
                if isinstance(result, DataError):
                    print(f"skipped: {shard.name}: {result}")
                else:
                    samples.append(result)
    return samples


def find_shards(folder: Path, *stems: str) -> list[Path]:
    """The tars in ``folder`` whose names start with one of ``stems``, sorted.

    Raises:
        DataError: there is no such folder, or nothing in it fits.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such data folder")
    shards = sorted(path for stem in stems for path in folder.glob(f"{stem}-*.tar"))
    if not shards:
        raise DataError(f"{folder}: no {' or '.join(f'{stem}-*.tar' for stem in stems)} in it")
    return shards


# --- augmentation ---------------------------------------------------------------------------------


def random_affine(rng: np.random.Generator, picture: Picture, size: int) -> NDArray[np.float64]:
    """A 2x3 matrix from a picture to a size x size crop: scale, stretch, turn, flip, shift."""
    height, width = picture.shape[:2]
    cover = size / min(height, width)
    contain = size / max(height, width)
    # From the whole picture in view (mirrored at its edges) to a crop of half of its short side.
    scale = np.exp(rng.uniform(np.log(max(contain, 0.55 * cover)), np.log(1.9 * cover)))
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    angle = np.deg2rad(rng.normal(0, 7))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([flip * scale * stretch, scale / stretch])
    # The crop's centre falls where the crop stays inside the picture, if it fits at all.
    room = np.maximum(np.array([width, height]) - size / scale, 0.1 * np.array([width, height]))
    centre = np.array([width, height]) / 2 + rng.uniform(-0.5, 0.5, 2) * room
    return np.column_stack([linear, size / 2 - linear @ centre])


def warp(picture: Picture, matrix: NDArray[np.float64], size: int) -> Picture:
    """Applies a 2x3 matrix; beyond its edges the picture is mirrored."""
    return np.asarray(
        cv2.warpAffine(
            picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        ),
        np.uint8,
    )


def jitter_colours(rng: np.random.Generator, image: Picture) -> Picture:
    """Exposure, contrast, gamma, white balance and saturation, each a little off."""
    levels = np.arange(256, dtype=np.float32) / 255
    gamma = np.exp(rng.normal(0, 0.25))
    contrast = np.exp(rng.normal(0, 0.15))
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.07, 3))
    offset = rng.normal(0, 0.05)
    curve = np.clip(((levels**gamma) - 0.5) * contrast + 0.5 + offset, 0, 1)
    table = np.clip(curve[:, None] * gain[None], 0, 1) * 255
    image = np.asarray(cv2.LUT(image, table.astype(np.uint8)[None]), np.uint8)
    keep = 0.0 if rng.random() < 0.05 else np.clip(rng.normal(1, 0.25), 0, 2)
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(image, float(keep), gray, float(1 - keep), 0), np.uint8)


def degrade(rng: np.random.Generator, image: Picture) -> Picture:
    """What cameras and codecs do: soft focus, sensor noise, compression."""
    if rng.random() < 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.6)), np.uint8)
    if rng.random() < 0.4:
        noise = rng.normal(0, rng.uniform(1, 12), image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(25, 90))
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image


def simulate_previous(rng: np.random.Generator, alpha: Picture) -> Picture:
    """A copy of ``alpha`` as the frame before might have had it: moved, softened, imperfect."""
    size = alpha.shape[0]
    spread = rng.choice([0.01, 0.04])
    angle, scale = np.rad2deg(rng.normal(0, spread)), np.exp(rng.normal(0, spread))
    centre = (size / 2, size / 2)
    matrix = np.asarray(cv2.getRotationMatrix2D(centre, float(angle), float(scale)), np.float64)
    matrix[:, 2] += rng.normal(0, spread, 2) * size
    previous = warp(alpha, matrix, size)
    if rng.random() < 0.3:
        previous = np.asarray(cv2.blur(previous, (int(rng.integers(2, 7)),) * 2), np.uint8)
    if rng.random() < 0.3:
        kernel = np.ones((int(rng.integers(2, 8)),) * 2, np.uint8)
        grow = cv2.dilate if rng.random() < 0.5 else cv2.erode
        previous = np.asarray(grow(previous, kernel), np.uint8)
    # Parts lost, and things held that are not people: an error must not live on by feeding itself.
    for _ in range(rng.integers(0, 4) if rng.random() < 0.5 else 0):
        middle = rng.integers(0, size, 2)
        axes = rng.integers(size // 16, size // 3, 2)
        value = float(rng.choice([0, 255]))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(previous, (middle.tolist(), axes.tolist(), angle), value, -1)
    return previous


@dataclass(frozen=True)
class StreamConfig:
    """How samples are made.  Probabilities are per sample."""

    negative: float = 0.07
    composited: float = 0.5
    previous_dropped: float = 0.5
    previous_foreign: float = 0.06


class SampleStream(Dataset[dict[str, Tensor]]):
    """Samples ``start`` to ``stop`` of the stream that ``seed`` names, at one picture size.

    Shape:
        item: image [3, S, S], alpha [1, S, S], previous [1, S, S], all uint8.
    """

    def __init__(
        self,
        portraits: list[Portrait],
        backgrounds: list[Picture],
        *,
        size: int,
        start: int,
        stop: int,
        seed: int = 0,
        config: StreamConfig | None = None,
    ) -> None:
        self.portraits, self.backgrounds = portraits, backgrounds
        self.size, self.start, self.stop, self.seed = size, start, stop, seed
        self.config = config or StreamConfig()

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, offset: int) -> dict[str, Tensor]:
        number = self.start + offset
        rng = np.random.default_rng((self.seed, number))
        if rng.random() < self.config.negative:
            image, alpha = self._empty(rng)
            previous = np.zeros_like(alpha)
        else:
            image, alpha, previous = self._people(rng, self._portrait(number))
        if rng.random() < self.config.previous_foreign:
            previous = self._foreign_alpha(rng)
        elif rng.random() < self.config.previous_dropped:
            previous = np.zeros_like(alpha)
        image = degrade(rng, jitter_colours(rng, image))
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "alpha": torch.from_numpy(alpha[None]),
            "previous": torch.from_numpy(previous[None]),
        }

    def _portrait(self, number: int) -> Portrait:
        epoch, index = divmod(number, len(self.portraits))
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.portraits))
        return self.portraits[int(order[index])]

    def _empty(self, rng: np.random.Generator) -> tuple[Picture, Picture]:
        return self._background(rng), np.zeros((self.size, self.size), np.uint8)

    def _background(self, rng: np.random.Generator) -> Picture:
        picture = self.backgrounds[rng.integers(len(self.backgrounds))]
        return warp(picture, random_affine(rng, picture, self.size), self.size)

    def _foreign_alpha(self, rng: np.random.Generator) -> Picture:
        """Somebody else's matte: after a cut, the previous alpha says nothing of this frame."""
        alpha = self.portraits[rng.integers(len(self.portraits))].alpha
        return warp(alpha, random_affine(rng, alpha, self.size), self.size)

    def _people(
        self, rng: np.random.Generator, portrait: Portrait
    ) -> tuple[Picture, Picture, Picture]:
        matrix = random_affine(rng, portrait.alpha, self.size)
        alpha = warp(portrait.alpha, matrix, self.size)
        if rng.random() < self.config.composited:
            image = self._composite(rng, warp(portrait.foreground, matrix, self.size), alpha)
        else:
            image = warp(portrait.image, matrix, self.size)
        if portrait.previous is not None:
            return image, alpha, warp(portrait.previous, matrix, self.size)
        return image, alpha, simulate_previous(rng, alpha)

    def _composite(self, rng: np.random.Generator, foreground: Picture, alpha: Picture) -> Picture:
        background = self._background(rng)
        if rng.random() < 0.3:  # shallow depth of field
            background = np.asarray(
                cv2.GaussianBlur(background, (0, 0), rng.uniform(0.5, 0.03 * self.size)), np.uint8
            )
        if rng.random() < 0.5:
            foreground = jitter_colours(rng, foreground)
        weight = alpha.astype(np.float32)[..., None] / 255
        return (foreground * weight + background * (1 - weight) + 0.5).astype(np.uint8)
