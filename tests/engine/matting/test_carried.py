"""Mattes that are carried along the motion while the network works on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from tests.engine.matting.balls import HEIGHT, WIDTH, ball, everywhere
from tests.engine.matting.mattes import turned
from tests.helpers import wait_for
from tests.peers import HookedMatter, Infer, poison

from fusematte.engine.backends import Maps
from fusematte.engine.errors import BackendError
from fusematte.engine.frame import Frame, Map
from fusematte.engine.matting.carried import OLDEST, Carried
from fusematte.engine.matting.selection import Prompt
from fusematte.engine.pixels.color import enlarge

EDGE = 0.0026
"""The mean difference that an edge makes which is off by a pixel: 2 pi 60 / (288 * 512)."""


class Knowing:
    """A network that knows the alpha of every frame, and answers when it is let.

    asked: what it was asked for, by the number of the frame; given: with which previous alphas.
    """

    def __init__(self, matter: HookedMatter, shots: list[tuple[Frame, Map]]) -> None:
        self.asked: list[int] = []
        self.given: list[Map] = []
        self.free = threading.Event()
        self.free.set()
        self.done = threading.Semaphore(0)
        images = [matter.see(frame).image().tobytes() for frame, _ in shots]
        self._numbers = {image: number for number, image in enumerate(images)}
        self._alphas = [alpha for _, alpha in shots]
        matter.reset()

    def __call__(self, _: Infer, image: Map, previous: Map) -> Maps:
        number = self._numbers.get(image.tobytes())
        if number is None:  # a look from afar
            return everywhere(image)
        self.asked.append(number)
        self.given.append(previous[0, 0])
        assert self.free.wait(20)
        alpha = self._alphas[number]
        self.done.release()
        return Maps(alpha.copy(), alpha.copy(), 1 - alpha, np.full_like(alpha, 0.5))


@pytest.fixture
def carried() -> Iterator[Carried]:
    made = Carried()
    yield made
    made.reset()
    made.close()


def shots(count: int, step: float = 3) -> list[tuple[Frame, Map]]:
    made = [ball(index, step) for index in range(count)]
    return [(replace(frame, time_base=Fraction(1, 30)), alpha) for frame, alpha in made]


def settled(carried: Carried, network: Knowing) -> None:
    """Waits until the network has answered."""
    assert network.done.acquire(timeout=20)
    wait_for(lambda: rests(carried))


def rests(carried: Carried) -> bool:
    """Whether the network has nothing to do."""
    return carried._next is None or carried._next[1].done()


def test_frames_do_not_wait_for_the_network(matter: HookedMatter, carried: Carried) -> None:
    flight = shots(9)
    network = Knowing(matter, flight)
    matter.hook = network
    for number, (frame, alpha) in enumerate(flight):
        if number == 1:
            network.free.clear()
        made = carried(matter, frame)
        assert made.frame is frame and made.matte.pts == frame.pts
        assert made.follows == (number > 0)
        assert np.abs(made.matte.alpha - alpha).mean() < EDGE
    # The first waits, twice, as always; since the second frame the network has been at it.
    wait_for(lambda: len(network.asked) == 3)
    assert network.asked == [0, 0, 1]
    assert np.abs(network.given[2] - flight[1][1]).mean() < EDGE  # moved, not that of before
    assert np.abs(flight[8][1] - flight[0][1]).mean() > 0.01  # if it were not followed
    network.free.set()


def test_the_networks_matte_is_taken_when_it_is_there(
    matter: HookedMatter, carried: Carried
) -> None:
    flight = shots(4)
    wrong = [
        (frame, alpha if number == 0 else 0 * alpha) for number, (frame, alpha) in enumerate(flight)
    ]
    network = Knowing(matter, wrong)
    matter.hook = network
    means = []
    for frame, _ in flight:
        if means:
            settled(carried, network)
        means.append(carried(matter, frame).matte.alpha.mean())
    # Of frame 1 the network says that nobody is there: frame 2 carries that.
    assert means[0] > 0.05 and means[1] > 0.05
    assert means[2] < 1e-6 and means[3] < 1e-6
    assert carried.network_seconds > 0


def worked(
    matter: HookedMatter, carried: Carried, seconds: float
) -> tuple[list[tuple[Frame, Map]], Knowing]:
    """Shots, and a network that took so long for the second one, and has answered."""
    flight = shots(16, step=1)
    network = Knowing(matter, flight)
    matter.hook = network
    carried(matter, flight[0][0])
    network.free.clear()
    carried(matter, flight[1][0])
    time.sleep(seconds)
    network.free.set()
    wait_for(lambda: rests(carried))
    return flight, network


def test_the_network_rests_as_long_as_it_worked(matter: HookedMatter, carried: Carried) -> None:
    flight, network = worked(matter, carried, 0.6)
    carried(matter, flight[2][0])
    assert network.asked == [0, 0, 1]  # it rests for 0.6 seconds
    time.sleep(carried.network_seconds)
    carried(matter, flight[3][0])
    wait_for(lambda: network.asked == [0, 0, 1, 3])


def test_a_matte_that_would_soon_be_too_old_lets_no_network_rest(
    matter: HookedMatter, carried: Carried
) -> None:
    flight, network = worked(matter, carried, 0.6)
    late = 1 + int(OLDEST / 2 * 30)
    carried(matter, flight[late][0])
    wait_for(lambda: network.asked == [0, 0, 1, late])


def test_a_matte_that_is_too_old_is_waited_for(matter: HookedMatter, carried: Carried) -> None:
    flight = shots(16, step=1)
    network = Knowing(matter, flight)
    matter.hook = network
    carried(matter, flight[0][0])
    network.free.clear()
    young = int(OLDEST * 30)
    for frame, _ in flight[1 : young + 1]:
        carried(matter, frame)
    release = threading.Timer(0.3, network.free.set)
    release.start()
    carried(matter, flight[young + 1][0])
    assert network.free.is_set()
    release.join()


def test_what_cannot_be_carried_waits_for_its_own(matter: HookedMatter, carried: Carried) -> None:
    def alone(frame: Frame) -> bool:
        """Whether the network was asked for this frame before the call returned."""
        asked: list[threading.Thread] = []

        def note(network: Infer, image: Map, previous: Map) -> Maps:
            asked.append(threading.current_thread())
            return network(image, previous)

        matter.hook = note
        carried(matter, frame)
        return threading.current_thread() in asked

    frames = [frame for frame, _ in shots(12)]
    assert alone(frames[0]) and not alone(frames[1])
    frames = [replace(frame, pts=frame.pts + 300) for frame in frames]  # ten seconds are missing
    assert alone(frames[4]) and not alone(frames[5])
    frames = [turned(frame, 90) for frame in frames]
    assert alone(frames[6]) and not alone(frames[7])
    wait_for(lambda: rests(carried))  # the prompt is for the next frame, not for that at work
    matter.prompt(Prompt(kind="keep", place=(0.3, 0.4)))
    assert alone(frames[8])
    with HookedMatter() as matter:  # another model
        assert alone(frames[9])
        carried.reset()


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_a_new_size_of_the_network_lets_no_frame_wait(
    matter: HookedMatter, carried: Carried, scale: float
) -> None:
    flight = shots(3)
    network = matter.hook = Knowing(matter, flight)
    carried(matter, flight[0][0])
    carried(matter, flight[1][0])
    settled(carried, network)
    asked: list[tuple[int, ...]] = []
    free = threading.Event()

    def slow(network: Infer, image: Map, previous: Map) -> Maps:
        asked.append(image.shape[2:])
        assert free.wait(20)
        return network(image, previous)

    matter.hook, matter.scale = slow, scale
    frame, alpha = flight[2]
    # So late that the network does not rest, however long its last matte took.
    frame = replace(frame, pts=flight[1][0].pts + math.ceil(OLDEST / 2 / frame.time_base))
    matte = carried(matter, frame).matte
    size = matter.size_for(frame)
    assert alpha.shape != size == matte.alpha.shape == matte.beta.shape == matte.color.shape[1:]
    assert np.abs(matte.alpha - enlarge(alpha, *size)).mean() < EDGE
    wait_for(lambda: asked == [size])  # for the frames to come
    free.set()


def test_turned_frames_are_carried_as_they_are_stored(
    matter: HookedMatter, carried: Carried
) -> None:
    frames = [turned(frame, 90) for frame, _ in shots(3)]
    for frame in frames:
        made = carried(matter, frame)
        assert made.matte.alpha.shape == made.matte.color.shape[1:]
        assert made.matte.alpha.shape[0] > made.matte.alpha.shape[1] == min(HEIGHT, WIDTH)


def test_an_error_is_told_once_and_the_next_frame_begins_anew(
    matter: HookedMatter, carried: Carried
) -> None:
    frames = [frame for frame, _ in shots(4)]
    carried(matter, frames[0])
    matter.hook = poison
    carried(matter, frames[1])
    with pytest.raises(BackendError, match="infinities or NaNs"):
        while True:
            carried(matter, frames[2])
    matter.hook = None
    carried.reset()
    assert np.isfinite(carried(matter, frames[3]).matte.alpha).all()
