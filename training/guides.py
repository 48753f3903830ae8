"""Guided samples: some of what a scene shows is wanted, and the guide says which.

The rules are the engine's own (``engine.matting.guide``).  Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.matting.guide import BOX, DROP, KEEP, UNDECIDED
from fusematte.training.augment import spoil
from fusematte.training.geometry import Picture
from fusematte.training.scenes import Scene

Guide = NDArray[np.int16]
"""[H, W], -255..255: the network's -1..1, in the steps of an alpha."""
Generator = np.random.Generator

SEEN = 0.0015
"""Share of the frame that something takes up at least where it is clicked on."""
RADII = 0.015, 0.06
"""Of a click's disc, as shares of the frame's height: around the engine's own."""


@dataclass(frozen=True)
class SceneSelection:
    """What is wanted of a scene.

    everybody: the scene in which all people are wanted; wanted: numbers of the layers that are now,
    people or things; room: whether people in the room's own picture are.
    """

    everybody: Scene
    wanted: frozenset[int] = frozenset()
    room: bool = False

    def of(self, scene: Scene) -> Scene:
        """A scene with the same layers, of which only the wanted ones count as foreground."""
        return scene.keeping(self.wanted, room=self.room)

    @cached_property
    def scene(self) -> Scene:
        """The scene itself as it was chosen."""
        return self.of(self.everybody)

    def part(self, index: int) -> Picture:
        """What is to be seen of one layer: [H, W], 0..255."""
        return self.everybody.keeping({index}).alpha(0)

    @property
    def people(self) -> frozenset[int]:
        """The layers that the network would keep without a choice."""
        layers = enumerate(self.everybody.layers)
        return frozenset(index for index, layer in layers if layer.wanted)

    @property
    def things(self) -> frozenset[int]:
        """The others."""
        return frozenset(range(len(self.everybody.layers))) - self.people

    @property
    def inhabited(self) -> bool:
        """Whether there are people in the room's own picture."""
        return bool(self.everybody.room.alpha.any())


def choose(rng: Generator, scene: Scene) -> SceneSelection:
    """Somebody is wanted, or several, a thing, a person with a thing, or nobody that is there."""
    everybody = SceneSelection(scene)
    people, things = sorted(everybody.people), sorted(everybody.things)
    kind = rng.random()
    wanted: set[int] = set()
    if people and kind < 0.75:
        wanted = {int(rng.choice(people))}
        if kind < 0.25:
            wanted |= {index for index in people if rng.random() < 0.5}
        if things and rng.random() < 0.2:
            wanted.add(int(rng.choice(things)))
    elif things and kind < 0.92:
        wanted = {int(rng.choice(things))}
    room = everybody.inhabited and (rng.random() < 0.8 if not people else rng.random() < 0.5)
    # Half of the time who is in the picture is chosen, and not who was put into it.
    alone = room and rng.random() < 0.6
    return SceneSelection(scene, frozenset(() if alone else wanted), room)


def guide(rng: Generator, choice: SceneSelection, before: Scene, time: float) -> Guide:
    """What the network is given: a prompt in this very frame, or what the frame before leaves.

    before: the scene with what is known of that frame's alpha; time: that frame's.  Where it does
    not come right before the frame that is learnt from there are no prompts: the network's own
    alphas lie between, and they would be of anybody as long as it cannot choose.
    """
    kind = rng.random() if time == -1 else 1.0
    made = None
    if kind < 0.25:
        made = _kept(rng, choice)
    elif kind < 0.35:
        made = _dropped(rng, choice)
    elif kind < 0.45:
        made = _corrected(rng, choice)
    return _carried(rng, choice, before, time) if made is None else made


def _kept(rng: Generator, choice: SceneSelection) -> Guide | None:
    """Clicks or a box on what is wanted, perhaps clicks on others; None if some of it is hidden."""
    guide = _level(choice.scene, UNDECIDED)
    prompt = _box if rng.random() < 0.2 else _click
    if (
        choice.room
        or not choice.wanted
        or not all(prompt(rng, guide, choice.part(i)) for i in choice.wanted)
    ):
        return None
    for index in range(len(choice.everybody.layers)):
        if index not in choice.wanted and rng.random() < 0.2:
            _click(rng, guide, choice.part(index), DROP)
    return guide


def _dropped(rng: Generator, choice: SceneSelection) -> Guide | None:
    """Clicks on the people who are not wanted, perhaps with everybody's alpha of the frame before;
    None if that does not say what is wanted."""
    others = choice.people - choice.wanted
    if not others or choice.wanted - choice.people or choice.inhabited > choice.room:
        return None
    guide = _level(choice.scene, 0)
    if rng.random() < 0.5:
        guide += spoil(rng, choice.everybody.alpha(-1))
    dropped = [_click(rng, guide, choice.part(index), DROP) for index in others]
    return guide if all(dropped) else None


def _corrected(rng: Generator, choice: SceneSelection) -> Guide | None:
    """Something was on the wrong side in the frame before and is clicked on; None if hidden."""
    if not choice.everybody.layers:
        return None
    index = int(rng.integers(len(choice.everybody.layers)))
    wrong = choice.everybody.keeping(choice.wanted ^ {index}, room=choice.room)
    guide = _signed(spoil(rng, wrong.alpha(-1)))
    sign = KEEP if index in choice.wanted else DROP
    return guide if _click(rng, guide, choice.part(index), sign) else None


def _carried(rng: Generator, choice: SceneSelection, before: Scene, time: float) -> Guide:
    """From the alpha of the frame before, with the mistakes of a network."""
    alpha = choice.of(before).alpha(time)
    spoilt = spoil(rng, alpha)
    if rng.random() < 0.25:  # others shine through
        leak = cv2.subtract(before.alpha(time), alpha) * rng.uniform(0, 0.6)
        spoilt = np.maximum(spoilt, leak.astype(np.uint8))
    return _signed(spoilt)


def _level(scene: Scene, value: float) -> Guide:
    return np.full((scene.height, scene.width), round(255 * value), np.int16)


def _signed(alpha: Picture) -> Guide:
    """``engine.matting.guide.carried`` in steps of an alpha."""
    return 2 * alpha.astype(np.int16) - 255


def _click(rng: Generator, guide: Guide, part: Picture, sign: float = KEEP) -> bool:
    """A disc somewhere inside of what can be seen; whether there is anything to click on."""
    solid = (part > 200).astype(np.uint8)
    if solid.mean() < SEEN:
        return False
    # A hand aims well inside, but not at the very middle.
    inside = cv2.distanceTransform(np.pad(solid, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(inside >= rng.uniform(0.1, 0.9) * inside.max())
    chosen = int(rng.integers(len(rows)))
    middle = int(columns[chosen]), int(rows[chosen])
    radius = max(1, round(guide.shape[0] * rng.uniform(*RADII)))
    cv2.circle(guide, middle, radius, round(255 * sign), -1)
    return True


def _box(rng: Generator, guide: Guide, part: Picture) -> bool:
    """A box around what can be seen, drawn by a hand; whether there is anything in it."""
    solid = (part > 128).astype(np.uint8)
    if solid.mean() < SEEN:
        return False
    left, top, width, height = cv2.boundingRect(solid)
    slack = rng.normal(0, 0.04, 4) * (width, height, width, height)
    first = round(left + slack[0]), round(top + slack[1])
    last = round(left + width + slack[2]), round(top + height + slack[3])
    cv2.rectangle(guide, first, last, round(255 * BOX), -1)
    return True
