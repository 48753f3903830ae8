"""Generates random scenes: people, things, their places, light and motion.

Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from fusematte.training.augment import jitter_colours, random_affine, turn_and_flip
from fusematte.training.config import SceneConfig
from fusematte.training.geometry import Matrix, Picture, affine
from fusematte.training.scenes import STILL, CutOut, Layer, Motion, Scene

Generator = np.random.Generator

VISIBLE = 16
"""Alphas above this count where the extent of a cut-out is taken."""
LARGEST_SCALE = 1.6
"""For a frame of 288 lines.  Cut-outs are not enlarged more: their edges would be soft."""
CUT = 0.08
"""A body is cut off at an edge of its picture when it takes up a larger share of that edge."""
GO_ON = 0.25
"""How far a body that was cut off goes on, as a share of the picture's side."""
COVERED = 0.3
"""Share of plain walls that are nearly black: a covered lens, a fade."""
SIGNS = 0.6
"""Share of posters that show text and shapes instead of people."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789&#/.:"
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)


class Composer:
    """Generates scenes from rooms, people and things; a scene depends only on its random generator.

    Args:
        rooms: pictures without people, [H, W, 3] RGB.
        people: cut-outs in groups: half of the people come from the first group, the others from
            any group, so that a large group does not outweigh a good one.
        things: cut-outs.
        pictured: photographs of people, used as posters.
        photometric: vary light and focus.
    """

    def __init__(
        self,
        rooms: Sequence[Picture],
        people: Sequence[Sequence[CutOut]] = (),
        things: Sequence[CutOut] = (),
        pictured: Sequence[Picture] = (),
        config: SceneConfig | None = None,
        *,
        photometric: bool = True,
    ) -> None:
        self.rooms, self.things, self.pictured = rooms, things, pictured
        self.people = [group for group in people if group]
        self.config = config or SceneConfig()
        self.photometric = photometric

    def scene(self, rng: Generator, height: int, width: int) -> Scene:
        """A random scene with any number of people."""
        shares = self.config.people
        count = int(rng.choice(len(shares), p=shares)) if self.people else 0
        room = self._room(rng)
        people = [self._person(rng, room, height, width) for _ in range(count)]
        people.sort(key=lambda layer: layer.drawn_height)
        return self.around(rng, height, width, people, room)

    def around(
        self,
        rng: Generator,
        height: int,
        width: int,
        people: Sequence[Layer] = (),
        room: Picture | None = None,
    ) -> Scene:
        """A scene with things around the given people (or around nobody)."""
        room = self._room(rng) if room is None else room
        layers = [self._thing(rng, room, height, width) for _ in range(self._thing_count(rng))]
        if rng.random() < self.config.posters:
            layers.insert(0, self._poster(rng, height, width))
        layers += people
        if people and self.things and rng.random() < self.config.in_front:
            layers.append(self._thing(rng, room, height, width))
        moving = rng.random() < self.config.moving
        return Scene(
            height,
            width,
            CutOut(room, np.zeros(room.shape[:2], np.uint8)),
            random_affine(rng, room, height, width, self.config.room_zoom),
            layers,
            self.motion(rng, height, 0.5) if moving else STILL,
        )

    def _room(self, rng: Generator) -> Picture:
        """A room with random light, sometimes out of focus, or a plain wall."""
        if self.config.plain and rng.random() < self.config.plain:
            return plain_wall(rng)
        room = self.rooms[int(rng.integers(len(self.rooms)))]
        if not self.photometric:
            return room
        if rng.random() < self.config.colours:
            room = jitter_colours(rng, room)
        if rng.random() < self.config.out_of_focus:
            sigma = rng.uniform(0.5, 0.025 * min(room.shape[:2]))
            room = np.asarray(cv2.GaussianBlur(room, (0, 0), sigma), np.uint8)
        return room

    def _person(self, rng: Generator, room: Picture, height: int, width: int) -> Layer:
        group = 0 if rng.random() < 0.5 else int(rng.integers(len(self.people)))
        cutout = self.people[group][int(rng.integers(len(self.people[group])))]
        config = self.config
        moving = rng.random() < 0.7 * config.moving
        place = place_person(rng, cutout, height, width, config.heights)
        return Layer(
            *go_on(self._lit(rng, cutout, room), place),
            self.motion(rng, height, 1.0) if moving else STILL,
            shadow=rng.uniform(0.1, 0.5) if rng.random() < config.shadow else 0.0,
            wrap=rng.uniform(0.1, 0.5) if rng.random() < config.wrap else 0.0,
            exposure=rng.uniform(0.2, 0.7) if moving and rng.random() < config.motion_blur else 0.0,
        )

    def _thing_count(self, rng: Generator) -> int:
        anything = self.things and rng.random() < self.config.things
        return int(rng.integers(1, 4)) if anything else 0

    def _thing(self, rng: Generator, room: Picture, height: int, width: int) -> Layer:
        cutout = self.things[int(rng.integers(len(self.things)))]
        return Layer(
            self._lit(rng, cutout, room),
            place_thing(rng, cutout, height, width, self.config.thing_sizes),
            self.motion(rng, height, 0.5) if rng.random() < 0.2 else STILL,
            wanted=False,
            shadow=rng.uniform(0.1, 0.4) if rng.random() < self.config.shadow else 0.0,
        )

    def _poster(self, rng: Generator, height: int, width: int) -> Layer:
        """A framed picture of people, a sign or a banner; it is not foreground."""
        if not self.pictured or rng.random() < SIGNS:
            picture = sign(rng)
        else:
            picture = self.pictured[int(rng.integers(len(self.pictured)))]
        edge = max(2, min(picture.shape[:2]) // int(rng.integers(10, 40)))
        paint = rng.integers(0, 256, 3).tolist()
        border = cv2.copyMakeBorder(
            picture, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=paint
        )
        framed = np.asarray(border, np.uint8)
        colour = jitter_colours(rng, framed) if self.photometric else framed
        hung = CutOut(colour, np.full(framed.shape[:2], 255, np.uint8))
        return Layer(hung, place_thing(rng, hung, height, width, (0.15, 0.9)), wanted=False)

    def _lit(self, rng: Generator, cutout: CutOut, room: Picture) -> CutOut:
        """A cut-out in different light (brightness and colour temperature), often the room's."""
        colour = cutout.foreground
        if not self.photometric:
            return cutout
        if rng.random() < self.config.light:
            ours, rooms = (np.asarray(cv2.mean(one)[:3]) + 16 for one in (colour, room))
            gain = np.clip((rooms / ours) ** rng.uniform(0, 0.6), 0.4, 1.6)
            levels = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)
            colour = np.asarray(cv2.LUT(colour, levels[None]), np.uint8)
        elif rng.random() < 0.5 * self.config.colours:
            colour = jitter_colours(rng, colour)
        return CutOut(colour, cutout.alpha, cutout.exact)

    def motion(self, rng: Generator, height: int, amount: float) -> Motion:
        """A motion of up to an eighth of the frame height, with a period of 0.5 to 5 seconds."""
        reach = amount * height * rng.uniform(0, 0.12)
        direction = rng.uniform(0, 2 * math.pi)
        return Motion(
            (reach * math.cos(direction), 0.5 * reach * math.sin(direction)),
            amount * rng.normal(0, 2.5),
            amount * rng.normal(0, 0.03),
            _log_uniform(rng, 15, 150),
            rng.uniform(0, 2 * math.pi),
        )


def plain_wall(rng: Generator) -> Picture:
    """One colour, a gradient or a colour pattern, as a painted wall, a screen, a covered lens."""
    brightest = 16 if rng.random() < COVERED else 256
    cells = rng.integers(0, brightest, (*rng.integers(1, 5, 2), 3)).astype(np.uint8)
    smooth = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(cells, (256, 192), interpolation=smooth), np.uint8)


def sign(rng: Generator) -> Picture:
    """A plain panel with shapes and lines of text, often white: a banner, a slide, a sign."""
    height, width = (int(side) for side in rng.integers(96, 385, 2))
    panel = cv2.resize(plain_wall(rng), (width, height), interpolation=cv2.INTER_NEAREST)
    for _ in range(int(rng.integers(0, 4))):
        centre = [int(rng.integers(side)) for side in (width, height)]
        axes = [int(half) for half in rng.integers(5, min(height, width) // 3, 2)]
        cv2.ellipse(panel, centre, axes, 0, 0, 360, rng.integers(0, 256, 3).tolist(), -1)
    colour = [255, 255, 255] if rng.random() < 0.4 else rng.integers(0, 256, 3).tolist()
    font, size = FONTS[int(rng.integers(len(FONTS)))], _log_uniform(rng, 0.5, 5)
    thick, line = max(1, int(size * rng.uniform(1, 5))), int(40 * size)
    left = int(rng.uniform(-0.1, 0.3) * width)
    for bottom in range(line, height + line, line):
        text = "".join(rng.choice(list(LETTERS), int(rng.integers(2, 20))))
        cv2.putText(panel, text, (left, bottom), font, size, colour, thick, cv2.LINE_AA)
    return np.asarray(panel, np.uint8)


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    """A log-uniform random number."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def cut_sides(alpha: Picture) -> tuple[bool, bool, bool, bool]:
    """Whether a picture cuts a body off at its left, top, right and bottom edge."""
    edges = alpha[:, :2], alpha[:2], alpha[:, -2:], alpha[-2:]
    left, top, right, bottom = (bool((edge > 127).mean() > CUT) for edge in edges)
    return left, top, right, bottom


def place_person(
    rng: Generator, cutout: CutOut, height: int, width: int, heights: tuple[float, float]
) -> Matrix:
    """A random place, size and mirroring for a person; a body that its picture cuts off
    leaves the frame on that side too."""
    mirror = rng.random() < 0.5
    left, top, across, tall = cv2.boundingRect((cutout.alpha > VISIBLE).astype(np.uint8))
    cut_left, cut_top, cut_right, cut_bottom = cut_sides(cutout.alpha)
    if mirror:
        left = cutout.size[1] - left - across
        cut_left, cut_right = cut_right, cut_left
    scale = min(height * _log_uniform(rng, *heights) / tall, LARGEST_SCALE * height / 288)
    if cut_left and cut_right:
        scale = max(scale, 1.02 * width / across)
    if cut_top and cut_bottom:
        scale = max(scale, 1.02 * height / tall)
    x = _place(rng, scale * across, width, cut_left, cut_right)
    if cut_bottom:
        # Most stand or sit where the frame ends; some are seen from the shoulders up.
        hidden = min(abs(rng.normal(0, 0.25)), 0.7) if rng.random() < 0.5 and not cut_top else 0.0
        y = height - scale * tall * (1 - hidden)
    elif cut_top:
        y = _place(rng, scale * tall, height, True, False)
    else:
        y = rng.uniform(0.6, 1.0) * height - rng.uniform(0.7, 1.0) * scale * tall
    linear = np.diag([-scale if mirror else scale, scale])
    shift = np.array([x - scale * left, y - scale * top])
    shift[0] += scale * cutout.size[1] if mirror else 0
    return affine(linear, shift)


def _place(rng: Generator, length: float, space: float, cut_low: bool, cut_high: bool) -> float:
    """A random start position along one side of the frame."""
    if cut_low and cut_high:
        return float(rng.uniform(space - length, 0))
    hidden = rng.uniform(0, 0.3) * length
    if cut_low:
        return float(-hidden)
    if cut_high:
        return float(space - length + hidden)
    return float(rng.uniform(0, space) - length / 2)


def go_on(cutout: CutOut, place: Matrix) -> tuple[CutOut, Matrix]:
    """Extends a body beyond the edges that cut it off, so that it can move."""
    pads = [
        int(GO_ON * side) * cut
        for side, cut in zip(2 * cutout.size[::-1], cut_sides(cutout.alpha), strict=True)
    ]
    left, top, right, bottom = pads
    if not any(pads):
        return cutout, place
    colour, alpha = (
        np.asarray(
            cv2.copyMakeBorder(one, top, bottom, left, right, cv2.BORDER_REPLICATE), np.uint8
        )
        for one in (cutout.foreground, cutout.alpha)
    )
    moved = affine(np.eye(2), np.array([-left, -top], np.float64))
    return CutOut(colour, alpha, cutout.exact), np.asarray(place @ moved)


def place_thing(
    rng: Generator, cutout: CutOut, height: int, width: int, sizes: tuple[float, float]
) -> Matrix:
    """A random place, size, rotation and flip for a thing."""
    rows, columns = cutout.size
    scale = height * _log_uniform(rng, *sizes) / max(rows, columns)
    linear = scale * turn_and_flip(rng)
    middle = rng.uniform((0, 0), (width, height))
    return affine(linear, middle - linear @ (columns / 2, rows / 2))
