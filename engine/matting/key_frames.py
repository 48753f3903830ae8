"""The network runs on some frames of a video; the mattes between follow the motion.

A key frame is matted by the network, with the matte of the key frame before moved to where things
are now.  The frame in the middle between two key frames gets both of their mattes, moved: each
pixel trusts the one whose picture fits better there.  Where neither fits and the mattes contradict
each other, the network mattes the middle as well.  Then each half is filled in the same way.

Where the motion alone told the last key frame's matte, the next one may be further away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from fusematte.cpp_ext import Moved, blend_moved
from fusematte.engine.frame import Frame, Map, Matte, Plane
from fusematte.engine.matting.matter import Matter, Seen
from fusematte.engine.matting.motion import Motion, search_motion, search_size
from fusematte.engine.pixels.color import as_float, enlarge
from fusematte.engine.pixels.fit import shrink

CONTRADICTION = 0.15
"""Mean difference of two alphas in a neighbourhood from which on they contradict each other."""
_NEIGHBOURHOOD = 1 / 12
"""Its side, as a share of the picture's height."""
FORESEEN = 0.05
"""Mean difference of the network's alpha and a moved one in a neighbourhood, up to which the motion
told all of it."""
UNSEEN = 0.04
"""Mean difference of luma in a neighbourhood from which on it shows what neither key frame has."""
HELD = 2**26
"""Bytes of frames that may wait for a key frame that is further away than usual."""
CHANGED = 30
"""Mean difference of lumas, of 255, in a neighbourhood of a picture that has changed much."""
UNFIT = 0.03
"""Difference of luma from which on a moved picture does not fit."""
_FIT = 3
"""Radius of the neighbourhood in which a moved picture is compared, in pixels."""
_NOISE = 0.01
"""Difference of luma that says nothing about the fit."""


class Made(NamedTuple):
    """A frame and its matte.

    follows: whether the frame continues from the previous one.
    """

    frame: Frame
    matte: Matte
    follows: bool


@dataclass(eq=False)
class Known:
    """A frame, as the network sees it, and its matte, which is set once there is one.

    whole: F and B are moved with the alpha.
    """

    seen: Seen
    whole: bool = True
    matte: Matte = field(init=False)

    @cached_property
    def luma(self) -> Plane:
        """In which the motion is searched: [h, w], uint8."""
        luma = self.seen.color[0]
        small = cv2.resize(luma, search_size(*luma.shape), interpolation=cv2.INTER_AREA)
        return np.asarray(np.clip(small, 0, 1) * 255, np.uint8)

    @cached_property
    def planes(self) -> Map:
        """Alpha, F, B and luma, [h, w, 4]; without F and B, [h, w, 2], if they are not moved."""
        matte = self.matte
        others = (matte.foreground, matte.background) if self.whole else ()
        return as_float(cv2.merge((matte.alpha, *others, self.seen.color[0])))

    def at_size_of(self, matter: Matter) -> Known:
        """The same as the network sees it now, since its size has changed."""
        color, matte = matter.color_of(self.seen.frame), self.matte
        height, width = color.shape[1:]
        known = Known(self.seen._replace(color=color), self.whole)
        known.matte = replace(
            matte,
            alpha=enlarge(matte.alpha, height, width),
            foreground=enlarge(matte.foreground, height, width),
            background=enlarge(matte.background, height, width),
            beta=enlarge(matte.beta, height, width),
            color=color,
        )
        return known


class KeyFrames:
    """Mattes a video's frames; call it with each frame, in order.

    From one key frame to the next there are ``every`` frames where the last one's matte was as
    foreseen, and half as many where not, as at first; half of that again where the picture has
    changed much since.

    Args:
        every: the most frames from one key frame to the next; 1: all are key frames.
        whole: the mattes between have F and B, which costs time; else those of two decoders that
            agree.
    """

    def __init__(self, every: int, *, whole: bool = True) -> None:
        self._every = every
        self._whole = whole
        self._usual = self._reach = min(every, max(2, every // 2))
        """At most so many frames from one key frame to the next: usually, and at the moment."""
        self._key: Known | None = None
        self._waiting: deque[Known] = deque()

    def __call__(self, matter: Matter, frame: Frame) -> Iterator[Made]:
        """The frames that have their mattes now: none, or all up to this one.

        Each is matted when it is asked for; all have to be, before the next call.

        Raises:
            BackendError: as ``Matter``.
        """
        now = Known(matter.see(frame), self._whole)
        # A choice is followed from frame to frame.
        alone = now.seen.anew or self._key is None or matter.chooses
        if alone:
            yield from self.drain(matter)
        self._waiting.append(now)
        if alone or self._is_due(now):
            yield from self.drain(matter)

    def _is_due(self, now: Known) -> bool:
        """Whether the next key frame is this one."""
        assert self._key is not None
        count = len(self._waiting)
        if count == self._reach or count < self._reach // 2:
            return count == self._reach
        change = cv2.absdiff(now.luma, self._key.luma).astype(np.float32)
        return _most_nearby(change) > CHANGED

    def drain(self, matter: Matter) -> Iterator[Made]:
        """The frames that wait for a next key frame, with their mattes: the last becomes one.

        As with a call, each is matted when it is asked for.
        """
        if not self._waiting:
            return
        frames, self._waiting = self._waiting, deque()
        key, before, self._key = frames[-1], self._key, None
        if before is None or len(frames) == 1:
            key.matte, self._reach = matter.matte(key.seen), self._usual
        else:
            moved = motion_between(key, before)(before.matte.alpha)
            key.matte = matter.matte(key.seen, moved)
            self._reach = self._reach_after(key, moved)
            frames.appendleft(before)
            for one in self._filled(matter, frames):
                yield Made(one.seen.frame, one.matte, follows=True)
            matter.keep(key.matte.alpha, key.seen.frame.rotation)
        self._key = key
        yield Made(key.seen.frame, key.matte, matter.follows)

    def _reach_after(self, key: Known, foreseen: Map) -> int:
        """At most how many frames there are to the next key frame.

        foreseen: the alpha of the key frame before, moved to this one.
        """
        if _most_nearby(as_float(cv2.absdiff(key.matte.alpha, foreseen))) > FORESEEN:
            return self._usual
        size = sum(plane.nbytes for plane in key.seen.frame.planes)
        return min(self._every, max(self._usual, HELD // size))

    def _filled(self, matter: Matter, frames: deque[Known]) -> Iterator[Known]:
        """Mattes the frames between the first and the last; those that have passed are let go."""
        known = [-1]  # frames with mattes after the first one, by index, the nearest last
        while len(frames) > 1:
            first, last = -len(frames), known[-1]
            if last - first > 1:
                middle = first + (last - first + 1) // 2
                self._fill(matter, frames[first], frames[middle], frames[last], last - first)
                known.append(middle)
            else:
                frames.popleft()
                if known.pop() != -1:
                    yield frames[0]

    def _fill(self, matter: Matter, first: Known, now: Known, last: Known, distance: int) -> None:
        """Mattes a frame in the middle of two that are ``distance`` frames from each other."""
        motion = motion_between(now, first)
        before, moved = motion(first.planes), None
        if distance == 2:  # so near each other most motion goes on as it came: one search will do
            moved = _agreed(now.seen, before, motion.onward(last.planes))
        if moved is None:
            after = motion_between(now, last)(last.planes)
            if distance <= self._usual or _shows(now.seen, before, after):
                moved = _agreed(now.seen, before, after)
        if moved is None:
            now.matte = matter.matte(now.seen, before[0])
        else:
            now.matte = _matte(now.seen, first.matte, moved)


def motion_between(now: Known, other: Known) -> Motion:
    """Where the pixels of one frame are in another."""
    return search_motion(now.luma, other.luma)


def _agreed(seen: Seen, before: Map, after: Map) -> Moved | None:
    """Of two frames' planes, moved to this one; None if they contradict each other.

    They do where the alphas differ and neither picture fits.  Where one fits, the network has
    changed its mind, and would do so again if it were asked.
    """
    moved = _blended(seen, before, after)
    return None if _most_nearby(moved.conflict) > CONTRADICTION else moved


def _shows(seen: Seen, before: Map, after: Map) -> bool:
    """Whether of two frames' planes, moved to this one, one or the other shows all that is here.

    What comes and goes between two key frames is on neither; the further they are from each other,
    the more there may be of it.
    """
    luma = seen.color[0]
    misfit = cv2.min(cv2.absdiff(before[-1], luma), cv2.absdiff(after[-1], luma))
    return _most_nearby(as_float(misfit)) <= UNSEEN


def _most_nearby(difference: Map) -> float:
    """The mean of the neighbourhood in which it is largest."""
    small = shrink(difference, 4)
    side = max(1, round(small.shape[0] * _NEIGHBOURHOOD))
    return float(cv2.blur(small, (side, side)).max())


def moved_matte(seen: Seen, matte: Matte, planes: Map) -> Matte:
    """The matte of a frame from ``Known.planes`` of another, moved to it: [channels, h, w].

    matte: any other of the same Matter.
    """
    return _matte(seen, matte, _blended(seen, planes, planes))


def _blended(seen: Seen, before: Map, after: Map) -> Moved:
    """Of two frames' planes, moved to this one."""
    luma = seen.color[0]
    return blend_moved(
        luma, before, after, radius=min(_FIT, *luma.shape), noise=_NOISE, unfit=UNFIT
    )


def _matte(seen: Seen, matte: Matte, moved: Moved) -> Matte:
    """The matte of a frame; ``matte``: any other of the same Matter."""
    alpha, foreground, background, beta, _ = moved
    if foreground is None or background is None or beta is None:
        foreground, background, beta = alpha, 1 - alpha, np.full_like(alpha, 0.5)
    return replace(
        matte,
        alpha=alpha,
        foreground=foreground,
        background=background,
        beta=beta,
        color=seen.color,
        pts=seen.frame.pts,
        time_base=seen.frame.time_base,
    )
