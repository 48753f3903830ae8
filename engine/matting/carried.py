"""The network runs in a thread of its own; meanwhile frames carry its last matte along the motion.

A frame then waits for the motion search alone, however long the network takes: on a slow machine
the network keeps its full size.  A carried matte is as old as the network is slow; it was better
than one of the present from a smaller network (benchmarks/results/carried.json).

After each matte the network rests for as long as it took.  At full size that costs no more accuracy
than a smaller network without rest has, and the frames wait less for a processor.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from fractions import Fraction

from fusematte.engine.frame import Frame, Map
from fusematte.engine.matting.key_frames import Known, Made, motion_between, moved_matte
from fusematte.engine.matting.matter import Matter
from fusematte.engine.pipeline import Relay, Stage

OLDEST = Fraction(2, 5)
"""Seconds of video that a matte may be old; then frames wait for the network.  Whoever has come in
since the matte was made is not in it."""


class Carried:
    """Mattes a live source's frames; call it with each frame, in order.

    network_seconds: how long the network took for its last matte.
    """

    def __init__(self) -> None:
        self.network_seconds = 0.0
        self._matter: Matter | None = None
        self._key: Known | None = None
        self._next: tuple[Known, Future[float]] | None = None
        self._rests_until = 0.0
        self._network: Relay | None = None

    def __call__(self, matter: Matter, frame: Frame) -> Made:
        """The frame with its matte.

        Raises:
            BackendError: as ``Matter``, for this frame or the one that the network has just done.
        """
        if matter is not self._matter:
            self.reset()
            self._matter = matter
        now = Known(matter.see(frame))
        self._take(now)
        key = self._key
        # A choice is followed from frame to frame.
        if key is None or now.seen.anew or matter.chooses:
            return self._alone(matter, now)
        if key.seen.color.shape != now.seen.color.shape:  # the network's size has changed
            key = self._key = key.at_size_of(matter)
        planes = motion_between(now, key)(key.planes)
        if self._next is None and not self._rests(now, key):
            self._begin(matter, now, planes[0])
        return Made(frame, moved_matte(now.seen, key.matte, planes), follows=True)

    def reset(self) -> None:
        """Forgets what it knows, after the network has done what it is at."""
        if self._next is not None:
            wait([self._next[1]])
        self._next = self._key = None

    def close(self) -> None:
        """Ends the thread."""
        if self._network is not None:
            self._network.close()

    def _alone(self, matter: Matter, now: Known) -> Made:
        """A frame that cannot carry an earlier matte waits for its own."""
        self.reset()
        begun = time.perf_counter()
        now.matte = matter.matte(now.seen)
        self.network_seconds = time.perf_counter() - begun
        self._key = now
        return Made(now.seen.frame, now.matte, matter.follows)

    def _rests(self, now: Known, key: Known) -> bool:
        """Whether the network still rests, and the matte at hand will not be too old soon."""
        young = now.seen.frame.time - key.seen.frame.time < OLDEST / 2
        return young and time.perf_counter() < self._rests_until

    def _begin(self, matter: Matter, now: Known, previous: Map) -> None:
        if self._network is None:
            self._network = Relay(Stage("matte", _matte), waiting=1)
        done: Future[float] = Future()
        self._network.push((matter, now, previous, done))
        self._next = now, done

    def _take(self, now: Known) -> None:
        """Takes the network's matte, if it is done or if the one at hand is too old."""
        if self._next is None:
            return
        known, done = self._next
        old = self._key is not None and now.seen.frame.time - self._key.seen.frame.time > OLDEST
        if done.done() or old:
            self.network_seconds = done.result()
            self._key, self._next = known, None
            self._rests_until = time.perf_counter() + self.network_seconds


def _matte(task: tuple[Matter, Known, Map, Future[float]]) -> None:
    """Mattes a frame in the network's thread; the result is the seconds that it took."""
    matter, known, previous, done = task
    begun = time.perf_counter()
    try:
        known.matte = matter.matte(known.seen, previous)
    except Exception as error:
        done.set_exception(error)
    else:
        done.set_result(time.perf_counter() - begun)
