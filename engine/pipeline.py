"""Threads and bounded queues: decode, matte, composite and encode at the same time.

Nothing here knows about pixels.  A stage is a function from one value to one or several, and runs
in its own thread; the order of values is kept.  ``Pipeline`` waits for the slowest stage,
``Relay`` drops values that come too fast; both use ``BoundedQueue``.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from fusematte.engine.urgency import set_urgency

log = logging.getLogger(__name__)

DEPTH = 3
"""Queue capacity before each stage: enough to absorb a slow frame, few enough that a pipeline of
2160p frames stays small."""
POLL = 0.1
"""Seconds after which a waiting thread wakes up, so that Ctrl-C reaches it on every system."""

HANGS = 10.0
"""Seconds after which a live stage that does not return is abandoned."""


class Stage(NamedTuple):
    """A pipeline stage: ``work`` maps an input value to an output value.

    at_end: given for stages whose ``work`` returns any number of values, which may be made when
    they are asked for; returns the values still held back when the input ends.
    """

    name: str
    work: Callable[[Any], Any]
    at_end: Callable[[], Iterable[Any]] | None = None

    def make(self, item: object) -> Iterable[Any]:
        """The outputs for one input."""
        made = self.work(item)
        return [made] if self.at_end is None else made


@dataclass
class Statistics:
    """Busy seconds per stage, without waiting.

    skipped: frames that an earlier run of a resumed job had finished.
    """

    busy: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    skipped: int = 0

    def add(self, stage: str, seconds: float) -> None:
        """Adds busy time; each stage is only updated from its own thread."""
        self.busy[stage] = self.busy.get(stage, 0.0) + seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the pipeline started."""
        return time.perf_counter() - self.started


class Stopped(Exception):
    """The queue is closed."""


Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """A queue between threads that holds at most ``capacity`` values.

    When it is full, ``put`` drops the oldest value or, with ``patient``, waits for room.  After
    ``close``, waiting and later calls raise ``Stopped``.
    """

    def __init__(self, capacity: int, *, patient: bool = False) -> None:
        self._capacity = capacity
        self._patient = patient
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Item) -> int:
        """Adds a value; returns how many older ones were dropped for it."""
        with self._changed:
            while self._patient and len(self._waiting) >= self._capacity and not self._closed:
                self._changed.wait(POLL)
            if self._closed:
                raise Stopped
            dropped = max(0, len(self._waiting) + 1 - self._capacity)
            for _ in range(dropped):
                self._waiting.popleft()
            self._waiting.append(item)
            self._changed.notify_all()
            return dropped

    def get(self, timeout: float | None = None) -> Item:
        """Takes the oldest value; raises ``TimeoutError`` after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._waiting and not self._closed:
                left = POLL if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"nothing arrived within {timeout} s")
                self._changed.wait(min(POLL, left))
            if self._closed:
                raise Stopped
            item = self._waiting.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Wakes all waiting threads; values still queued are dropped."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()


def _thread(
    name: str,
    target: Callable[..., None],
    *args: Any,  # noqa: ANN401
    urgent: bool = False,
) -> threading.Thread:
    """A daemon thread that inherits the context variables of its creator, but not its urgency."""

    def run() -> None:
        set_urgency(urgent=urgent)
        target(*args)

    context = contextvars.copy_context()
    return threading.Thread(target=context.run, args=(run,), name=f"fusematte-{name}", daemon=True)


@dataclass(frozen=True)
class _End:
    """End marker of a queue: the source is exhausted, or a stage raised ``error``."""

    error: BaseException | None = None


class Pipeline:
    """Runs ``source`` through ``stages``; iterate over it for the results.

    An exception in the source or in a stage is raised by the iterator, after all results that
    precede it.  Leaving the ``with`` block stops and joins all threads.
    """

    def __init__(self, source: tuple[str, Iterable[Any]], *stages: Stage) -> None:
        self.statistics = Statistics()
        self._queues: list[BoundedQueue[Any]] = [
            BoundedQueue(DEPTH, patient=True) for _ in range(len(stages) + 1)
        ]
        self._threads = [_thread(source[0], self._run_source, *source, self._queues[0])]
        for stage, inputs, outputs in zip(stages, self._queues, self._queues[1:], strict=False):
            self._threads.append(_thread(stage.name, self._run_stage, stage, inputs, outputs))

    def __enter__(self) -> Pipeline:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # an interrupt between two of them
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def __iter__(self) -> Iterator[Any]:
        while not isinstance(item := self._queues[-1].get(), _End):
            yield item
        self._stop()  # iterating again raises Stopped at once
        if item.error is not None:
            raise item.error

    def _stop(self) -> None:
        for queue in self._queues:
            queue.close()

    def _run_source(self, name: str, items: Iterable[Any], outputs: BoundedQueue[Any]) -> None:
        def read() -> None:
            for item in self._timed_each(name, lambda: items):
                outputs.put(item)

        self._run(read, outputs)

    def _run_stage(
        self, stage: Stage, inputs: BoundedQueue[Any], outputs: BoundedQueue[Any]
    ) -> None:
        def work() -> None:
            while not isinstance(item := inputs.get(), _End):
                for made in self._timed_each(stage.name, stage.make, item):
                    outputs.put(made)
            for made in self._timed_each(stage.name, stage.at_end) if stage.at_end else ():
                outputs.put(made)
            if item.error is not None:
                raise item.error

        self._run(work, outputs)

    @staticmethod
    def _run(work: Callable[[], None], outputs: BoundedQueue[Any]) -> None:
        """Body of a thread: runs ``work``, then queues the end marker with its error, if any."""
        error: BaseException | None = None
        with contextlib.suppress(Stopped):
            try:
                work()
            except Stopped:
                raise
            except BaseException as raised:
                error = raised
            outputs.put(_End(error))

    def _timed_each(
        self, name: str, work: Callable[..., Iterable[Any]], *args: object
    ) -> Iterator[Any]:
        iterator, done = iter(self._timed(name, work, *args)), object()
        while (item := self._timed(name, next, iterator, done)) is not done:
            yield item

    def _timed(self, name: str, work: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401
        begun = time.perf_counter()
        try:
            return work(*args)
        finally:
            self.statistics.add(name, time.perf_counter() - begun)


class Relay:
    """The live counterpart of ``Pipeline``: values are pushed, and dropped if they come too fast.

    The first stage's queue holds ``waiting`` values and drops the oldest; the queues between stages
    hold one, and the faster stage waits.  The last stage handles its result itself.  A stage that
    raises stops the relay: the error is logged, and raised by the next ``push``.

    urgent: whether its threads come before others, see ``urgency``.
    """

    def __init__(self, *stages: Stage, waiting: int, urgent: bool = False) -> None:
        self._queues: list[BoundedQueue[Any]] = [BoundedQueue(waiting)]
        self._queues += [BoundedQueue(1, patient=True) for _ in stages[1:]]
        self._error: BaseException | None = None
        targets = [*self._queues[1:], None]
        self._threads = [
            _thread(stage.name, self._run, stage, source, target, urgent=urgent)
            for stage, source, target in zip(stages, self._queues, targets, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def push(self, item: object) -> int:
        """Queues a value; returns how many older ones were dropped for it."""
        if self._error is not None:
            raise self._error
        return self._queues[0].put(item)

    def close(self) -> bool:
        """Stops the threads and joins all but the calling one; may be called twice.

        Returns whether they ended: a stage that hangs is abandoned after ``HANGS`` seconds.
        """
        for queue in self._queues:
            queue.close()
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(HANGS)
        return not any(thread.is_alive() for thread in others)

    def _run(
        self, stage: Stage, source: BoundedQueue[Any], target: BoundedQueue[Any] | None
    ) -> None:
        try:
            while True:
                for made in stage.make(source.get()):
                    if target is not None:
                        target.put(made)
        except Stopped:
            return
        except BaseException as error:
            log.exception("%s failed", stage.name)
            self._error = error
            for queue in self._queues:
                queue.close()


class Feed:
    """A thread that passes each value of a source to ``push``.

    ended: set when the source is exhausted, or when it or ``push`` raised ``error``.
    """

    def __init__(self, name: str, source: Iterable[Any], push: Callable[[Any], object]) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = _thread(name, self._run, source, push)
        self._thread.start()

    def close(self, patience: float) -> None:
        """Stops after the current value; waits at most ``patience`` seconds for that."""
        self._stop.set()
        self._thread.join(patience)

    def _run(self, source: Iterable[Any], push: Callable[[Any], object]) -> None:
        try:
            for item in source:
                if self._stop.is_set():
                    break
                push(item)
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def network_threads(*, live: bool) -> int:
    """The default number of inference threads, used until it is measured: half of the processors.
    Decoding, compositing and encoding run at the same time on the others.

    In a file job it is two at least, if there are two: the other stages wait for the network, and
    it rests between key frames.  On two processors jobs were 1.04 to 1.33 times as fast with two.
    In a live session threads wait for the slowest of them, so one busy core delays them all.
    """
    count = processors()
    return max(1, count // 2) if live else max(min(2, count), count // 2)
