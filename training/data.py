"""The endless, reproducible stream of training samples, and its batches.

Sample number i depends only on the seed and on i, so a run continues exactly from its checkpoint,
with any number of loader workers or processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from fusematte.training.augment import CROPS, degrade, jitter_colours, random_affine, spoil
from fusematte.training.composer import Composer
from fusematte.training.config import Phase, StreamConfig
from fusematte.training.geometry import Picture
from fusematte.training.samples import Portrait
from fusematte.training.scenes import CutOut, Layer, Scene


class SampleStream(Dataset[dict[str, Tensor]]):
    """The endless stream of samples of a seed; ``stream[number]`` is one sample.

    Args:
        portraits: used in turn for samples that are not composed scenes, each as often as
            ``config.repeats`` says.
        composer: generates rooms and composed scenes.
        first: number of the first sample of the phase.
        step_samples: number of consecutive samples with the same size of ``phase.sizes``.

    Shape:
        item: image [3, H, W], alpha and exact [1, H, W] each, all uint8; exact is 255 where alpha
        is true, else 0; previous [1, H, W], uint8: the alpha of the frame before.  Of sequences
        also earlier [N, 3, H, W], the frames before; previous is then that of the first of them.
        number: int64.
    """

    def __init__(
        self,
        portraits: list[Portrait],
        composer: Composer,
        phase: Phase,
        *,
        first: int = 0,
        step_samples: int = 1,
        seed: int = 0,
        config: StreamConfig | None = None,
    ) -> None:
        self.config = config or StreamConfig()
        self.portraits = _repeated(portraits, self.config.repeats)
        self.composer, self.phase = composer, phase
        self.first, self.step_samples, self.seed = first, step_samples, seed

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, number))
        step = (number - self.first) // self.step_samples
        height, width = self.phase.shape(step)
        earlier = self.config.earlier_in(step)
        scene, before = self._scene(rng, number, height, width)
        view = scene.view()
        frames = [*(scene.view(-time).image for time in range(earlier, 0, -1)), view.image]
        if self.config.photometric:
            look = int(rng.integers(1 << 32))
            for index, frame in enumerate(frames):
                same = np.random.default_rng(look)  # for all frames of a sequence
                frames[index] = degrade(same, jitter_colours(same, frame))
        pictures = torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy())
        previous = self._previous(rng, before, -1 - earlier)
        item = {
            "image": pictures[-1],
            "alpha": torch.from_numpy(view.alpha[None]),
            "exact": torch.from_numpy(view.exact[None]),
            "previous": torch.from_numpy(previous[None]),
            "number": torch.tensor(number),
        }
        return item | ({"earlier": pictures[:-1]} if earlier else {})

    def name_of(self, number: int) -> str:
        """The portrait of a sample that is not a composed scene; for error messages."""
        return self._portrait(number).name

    def _portrait(self, number: int) -> Portrait:
        epoch, index = divmod(number, len(self.portraits))
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.portraits))
        return self.portraits[int(order[index])]

    def _scene(
        self, rng: np.random.Generator, number: int, height: int, width: int
    ) -> tuple[Scene, Scene]:
        """A sample's scene, and the scene that is known of the previous frame."""
        if rng.random() < self.config.scenes:
            scene = self.composer.scene(rng, height, width)
            return scene, scene
        if rng.random() < self.config.negative:
            scene = self.composer.around(rng, height, width)
            return scene, scene
        return self._people(rng, self._portrait(number), height, width)

    def _people(
        self, rng: np.random.Generator, portrait: Portrait, height: int, width: int
    ) -> tuple[Scene, Scene]:
        place = CROPS[self.phase.crop](rng, portrait.alpha, height, width)
        earlier = portrait.alpha if portrait.previous is None else portrait.previous
        if rng.random() < self.config.composited or portrait.image is None:
            colour = portrait.foreground
            if self.config.photometric and rng.random() < 0.5:
                colour = jitter_colours(rng, colour)
            person = Layer(CutOut(colour, portrait.alpha, portrait.exact), place)
            scene = self.composer.around(rng, height, width, [person])
            then = replace(person, cutout=CutOut(colour, earlier))
            return scene, replace(
                scene, layers=[then if one is person else one for one in scene.layers]
            )
        photograph = CutOut(portrait.image, portrait.alpha, portrait.exact)
        camera = self.composer.motion(rng, height, 0.5)
        scene = Scene(height, width, photograph, place, camera=camera)
        return scene, replace(scene, room=CutOut(portrait.image, earlier))

    def _previous(self, rng: np.random.Generator, scene: Scene, time: float) -> Picture:
        """The previous alpha given to the network; the previous frame was at ``time``."""
        before = scene.alpha(time)
        if rng.random() < self.config.previous_foreign:
            return self._foreign_alpha(rng, *before.shape)
        if rng.random() < self.config.previous_dropped:
            return np.zeros_like(before)
        return spoil(rng, before)

    def _foreign_alpha(self, rng: np.random.Generator, height: int, width: int) -> Picture:
        """Another person's matte: after a cut, the previous alpha is unrelated to the frame."""
        alpha = self.portraits[rng.integers(len(self.portraits))].alpha
        person = CutOut(alpha, alpha)
        return Scene(height, width, person, random_affine(rng, alpha, height, width)).alpha(0)


def _repeated(portraits: list[Portrait], repeats: Mapping[str, int]) -> list[Portrait]:
    return [one for one in portraits for _ in range(repeats.get(one.source, 1))]


class Batches(Sampler[list[int]]):
    """Sample numbers of each batch of one process; together, the processes see each sample once.

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
