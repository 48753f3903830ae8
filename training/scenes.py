"""Scenes with known alpha: moving cut-outs of people and things over a room, seen by a camera.

A scene can be rendered at any time, so it also provides the previous frame with its own alpha,
short sequences, and whole clips.  ``composer`` generates random scenes.  Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.training.geometry import Matrix, Picture, affine, warp

UNSURE_BAND = 7
"""Side of the square around each transition pixel in which an inexact alpha is not reliable."""
SOFT_SCALE = 8
"""Shadows and the room's light are computed at 1/8 of the frame size: they have no detail."""


@dataclass(frozen=True)
class CutOut:
    """A person or a thing cut out of a picture.

    foreground: [H, W, 3] RGB, valid a little beyond the alpha; alpha: [H, W], 0..255.
    exact: alpha is correct everywhere; otherwise only where it is 0 or 255.
    """

    foreground: Picture
    alpha: Picture
    exact: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.alpha.shape[0], self.alpha.shape[1]


@dataclass(frozen=True)
class Motion:
    """A periodic motion around a point, with amplitudes: shift in pixels, turn in degrees, zoom as
    a fraction of the size; period in frames, phase in radians."""

    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    zoom: float = 0.0
    period: float = 50.0
    phase: float = 0.0

    def at(self, time: float, centre: tuple[float, float]) -> Matrix:
        """The motion's matrix at a time in frames."""
        angle = 2 * math.pi * time / self.period + self.phase
        swing, sway = math.sin(angle), math.sin(2 * angle)
        scale, turn = 1 + self.zoom * swing, math.radians(self.turn * sway)
        linear = scale * np.array(
            [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
        )
        moved = np.asarray(centre) + swing * np.asarray(self.shift)
        return affine(linear, moved - linear @ centre)


STILL = Motion()


@dataclass(frozen=True)
class Layer:
    """A cut-out placed in a scene.

    place: transform from cut-out pixels to frame pixels; motion is around the cut-out's centre.
    wanted: it counts as foreground; otherwise it only covers what is behind it.
    shadow, wrap: strength of its shadow, and of the room's light on its edges; 0..1.
    exposure: fraction of the frame interval over which motion blurs it.
    """

    cutout: CutOut
    place: Matrix
    motion: Motion = STILL
    wanted: bool = True
    shadow: float = 0.0
    wrap: float = 0.0
    exposure: float = 0.0

    @property
    def drawn_height(self) -> float:
        """Height of the cut-out in the frame, in pixels."""
        return self.cutout.size[0] * math.sqrt(abs(float(np.linalg.det(self.place[:2, :2]))))

    def matrix(self, time: float) -> Matrix:
        """The transform from cut-out pixels to frame pixels at a time."""
        height, width = self.cutout.size
        x, y = (self.place @ (width / 2, height / 2, 1))[:2]
        return np.asarray(self.motion.at(time, (x, y)) @ self.place)


class View(NamedTuple):
    """A scene rendered at a time.

    Shape:
        image: [H, W, 3] RGB; alpha: [H, W], 0..255; exact: [H, W], 255 where alpha is correct,
        else 0.
    """

    image: Picture
    alpha: Picture
    exact: Picture


@dataclass(frozen=True)
class Scene:
    """Layers over a room, back to front.

    room: the background, with the alpha of people already in its picture.
    """

    height: int
    width: int
    room: CutOut
    room_place: Matrix
    layers: Sequence[Layer] = ()
    camera: Motion = field(default=STILL)

    def view(self, time: float = 0.0) -> View:
        """Renders the scene at a time in frames."""
        camera = self._camera(time)
        image = self._warp(self.room.foreground, camera @ self.room_place, cv2.BORDER_REFLECT_101)
        alpha = self._warp(self.room.alpha, camera @ self.room_place, cv2.BORDER_REFLECT_101)
        exact = np.full_like(alpha, 255) if self.room.exact else _sure(alpha)
        for layer in self.layers:
            matrix = camera @ layer.matrix(time)
            colour = self._warp(layer.cutout.foreground, matrix, cv2.BORDER_REPLICATE)
            cover = self._warp(layer.cutout.alpha, matrix, cv2.BORDER_CONSTANT)
            colour, cover = self._motion_blur(layer, time, colour, cover)
            if layer.shadow:
                image = _throw_shadow(image, cover, layer.shadow)
            if layer.wrap:
                colour = _wrap_light(colour, cover, image, layer.wrap)
            image = compose(colour, cover, image)
            alpha = _cover(alpha, cover, wanted=layer.wanted)
            exact = exact if layer.cutout.exact else np.minimum(exact, _sure(cover))
            exact[cover == 255] = 255
        return View(image, alpha, exact)

    def alpha(self, time: float) -> Picture:
        """Renders only the alpha at a time: [H, W], 0..255."""
        camera = self._camera(time)
        alpha = self._warp(self.room.alpha, camera @ self.room_place, cv2.BORDER_REFLECT_101)
        for layer in self.layers:
            matrix = camera @ layer.matrix(time)
            cover = self._warp(layer.cutout.alpha, matrix, cv2.BORDER_CONSTANT)
            alpha = _cover(alpha, cover, wanted=layer.wanted)
        return alpha

    def _camera(self, time: float) -> Matrix:
        return self.camera.at(time, (self.width / 2, self.height / 2))

    def _warp(self, picture: Picture, matrix: Matrix, border: int) -> Picture:
        return warp(picture, matrix, self.height, self.width, border)

    def _motion_blur(
        self, layer: Layer, time: float, colour: Picture, cover: Picture
    ) -> tuple[Picture, Picture]:
        if not layer.exposure:
            return colour, cover
        middle = (*(side / 2 for side in reversed(layer.cutout.size)), 1.0)
        there, here = layer.matrix(time - layer.exposure) @ middle, layer.matrix(time) @ middle
        kernel = _line(here[:2] - there[:2])
        return (
            np.asarray(cv2.filter2D(colour, -1, kernel), np.uint8),
            np.asarray(cv2.filter2D(cover, -1, kernel), np.uint8),
        )


def compose(foreground: Picture, alpha: Picture, background: Picture) -> Picture:
    """Composites a foreground over a background of the same size (equation 1): [H, W, 3]."""
    weight = cv2.merge([alpha] * 3).astype(np.float32)
    over = cv2.multiply(foreground.astype(np.float32), weight, scale=1 / 255)
    under = cv2.multiply(background.astype(np.float32), 255 - weight, scale=1 / 255)
    return np.asarray(cv2.add(over, under) + 0.5, np.uint8)


def _cover(alpha: Picture, cover: Picture, *, wanted: bool) -> Picture:
    """The alpha of a scene after another layer covers it."""
    behind = cv2.multiply(alpha, 255 - cover, scale=1 / 255)
    return np.asarray(cv2.add(behind, cover) if wanted else behind, np.uint8)


def _sure(alpha: Picture) -> Picture:
    """255 where an inexact alpha is reliable (away from transitions), 0 elsewhere."""
    soft = ((alpha > 0) & (alpha < 255)).astype(np.uint8)
    spoilt = cv2.dilate(soft, np.ones((UNSURE_BAND,) * 2, np.uint8))
    return np.where(spoilt, 0, 255).astype(np.uint8)


def _soft(picture: Picture, sigma: float) -> NDArray[np.float32]:
    """Blurs a picture at 1/SOFT_SCALE of its size; sigma is a fraction of its height."""
    height, width = picture.shape[:2]
    small = cv2.resize(
        picture,
        (max(1, width // SOFT_SCALE), max(1, height // SOFT_SCALE)),
        interpolation=cv2.INTER_AREA,
    ).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(small, (0, 0), max(0.5, sigma * small.shape[0])), np.float32)


def _enlarge(small: NDArray[np.float32], picture: Picture) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(small, (picture.shape[1], picture.shape[0])), np.float32)


def _throw_shadow(image: Picture, cover: Picture, strength: float) -> Picture:
    """Darkens the room to the right of and below the cut-out."""
    shade = _soft(cover, 0.06) / 255
    down, right = (max(1, round(0.05 * side)) for side in shade.shape)
    shade[down:, right:] = shade[:-down, :-right].copy()
    light = _enlarge((1 - strength * shade).astype(np.float32), image)
    return np.asarray(cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_8U), np.uint8)


def _wrap_light(colour: Picture, cover: Picture, room: Picture, strength: float) -> Picture:
    """Adds the room's light to the edges of a cut-out."""
    outside = 1 - _soft(cover, 0.02) / 255
    edge = _enlarge((strength * outside).astype(np.float32), cover)[..., None]
    light = _enlarge(_soft(room, 0.05), room)
    return np.asarray(colour + edge * (light - colour), np.uint8)


def _line(step: NDArray[np.float64]) -> NDArray[np.float32]:
    """A motion blur kernel along a step in pixels."""
    reach = min(12, max(1, math.ceil(float(np.abs(step).max()) / 2)))
    kernel = np.zeros((2 * reach + 1,) * 2, np.float32)
    end = np.clip(step / 2, -reach, reach)
    points = [tuple(round(reach + sign * float(value)) for value in end) for sign in (-1, 1)]
    cv2.line(kernel, points[0], points[1], 1.0)
    return np.asarray(kernel / kernel.sum(), np.float32)
