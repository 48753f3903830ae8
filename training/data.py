"""The stream of training samples, endless and repeatable, and how it is dealt out in batches.

Sample number i of a stream depends on the seed and on i alone, so that a run continues exactly
where its checkpoint left it, with any number of loader workers or processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from fusematte.training.augment import (
    CROPS,
    Picture,
    degrade,
    jitter_colours,
    random_affine,
    random_place,
    simulate_previous,
    warp,
)
from fusematte.training.compose import compose
from fusematte.training.config import Phase, StreamConfig
from fusematte.training.samples import CutOut, Portrait


class SampleStream(Dataset[dict[str, Tensor]]):
    """The endless stream of samples that the seed names; ``stream[number]`` is one of them.

    Args:
        objects: things that are not people, to lie in the rooms.
        first: number of the first sample of the phase.
        step_samples: as many follow one another at the same size, one of ``phase.sizes``.

    Shape:
        item: image [3, S, S], alpha [1, S, S], previous [1, S, S], all uint8; number, int64.
    """

    def __init__(
        self,
        portraits: list[Portrait],
        backgrounds: list[Picture],
        phase: Phase,
        *,
        first: int = 0,
        step_samples: int = 1,
        seed: int = 0,
        config: StreamConfig | None = None,
        objects: Sequence[CutOut] = (),
    ) -> None:
        self.portraits, self.backgrounds, self.objects = portraits, backgrounds, objects
        self.phase = phase
        self.first, self.step_samples, self.seed = first, step_samples, seed
        self.config = config or StreamConfig()

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, number))
        size = self.size_of(number)
        if rng.random() < self.config.negative:
            image, alpha = self._background(rng, size), np.zeros((size, size), np.uint8)
            previous = np.zeros_like(alpha)
        else:
            image, alpha, previous = self._people(rng, self._portrait(number), size)
        if rng.random() < self.config.previous_foreign:
            previous = self._foreign_alpha(rng, size)
        elif rng.random() < self.config.previous_dropped:
            previous = np.zeros_like(alpha)
        if self.config.photometric:
            image = degrade(rng, jitter_colours(rng, image))
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "alpha": torch.from_numpy(alpha[None]),
            "previous": torch.from_numpy(previous[None]),
            "number": torch.tensor(number),
        }

    def size_of(self, number: int) -> int:
        """Side of the pictures at this place of the stream."""
        sizes = self.phase.sizes
        return sizes[(number - self.first) // self.step_samples % len(sizes)]

    def name_of(self, number: int) -> str:
        """The portrait that a sample is made from; for errors."""
        return self._portrait(number).name

    def _portrait(self, number: int) -> Portrait:
        epoch, index = divmod(number, len(self.portraits))
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.portraits))
        return self.portraits[int(order[index])]

    def _background(self, rng: np.random.Generator, size: int) -> Picture:
        picture = self.backgrounds[rng.integers(len(self.backgrounds))]
        room = warp(picture, random_affine(rng, picture, size), size)
        if self.objects and rng.random() < self.config.objects:
            for _ in range(rng.integers(1, 4)):
                room = self._place_object(rng, room)
        return room

    def _place_object(self, rng: np.random.Generator, room: Picture) -> Picture:
        """A thing that is not a person, in front of a room that may be out of focus behind it."""
        thing = self.objects[int(rng.integers(len(self.objects)))]
        size = len(room)
        matrix = random_place(rng, thing.alpha, size)
        alpha = warp(thing.alpha, matrix, size, cv2.BORDER_CONSTANT)
        foreground = warp(thing.foreground, matrix, size)
        if self.config.photometric:
            room, foreground = self._out_of_focus(rng, room), jitter_colours(rng, foreground)
        return compose(foreground, alpha, room)

    def _out_of_focus(self, rng: np.random.Generator, room: Picture) -> Picture:
        """The room as a shallow depth of field shows it, now and then."""
        if rng.random() >= 0.3:
            return room
        sigma = rng.uniform(0.5, 0.03 * len(room))
        return np.asarray(cv2.GaussianBlur(room, (0, 0), sigma), np.uint8)

    def _foreign_alpha(self, rng: np.random.Generator, size: int) -> Picture:
        """Somebody else's matte: after a cut, the previous alpha says nothing of this frame."""
        alpha = self.portraits[rng.integers(len(self.portraits))].alpha
        return warp(alpha, random_affine(rng, alpha, size), size)

    def _people(
        self, rng: np.random.Generator, portrait: Portrait, size: int
    ) -> tuple[Picture, Picture, Picture]:
        matrix = CROPS[self.phase.crop](rng, portrait.alpha, size)
        alpha = warp(portrait.alpha, matrix, size)
        if rng.random() < self.config.composited or portrait.image is None:
            image = self._composite(rng, warp(portrait.foreground, matrix, size), alpha)
        else:
            image = warp(portrait.image, matrix, size)
        if portrait.previous is not None:
            return image, alpha, warp(portrait.previous, matrix, size)
        return image, alpha, simulate_previous(rng, alpha)

    def _composite(self, rng: np.random.Generator, foreground: Picture, alpha: Picture) -> Picture:
        size = len(alpha)
        background = self._background(rng, size)
        if self.config.photometric:
            background = self._out_of_focus(rng, background)
        if self.config.photometric and rng.random() < 0.5:
            foreground = jitter_colours(rng, foreground)
        return compose(foreground, alpha, background)


class Batches(Sampler[list[int]]):
    """Numbers of the samples in each batch of one process; all processes together see every sample
    once, step by step.

    Args:
        first: number of the first sample; steps: optimizer steps.
        batch, accumulate: samples per batch, batches per step and process.
    """

    def __init__(
        self, first: int, steps: int, *, batch: int, accumulate: int, rank: int, processes: int
    ) -> None:
        self.first, self.batch, self.rank, self.processes = first, batch, rank, processes
        self.count = steps * accumulate

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        for index in range(self.count):
            begin = self.first + (index * self.processes + self.rank) * self.batch
            yield list(range(begin, begin + self.batch))
