"""Threads and bounded queues: decode, matte, composite and encode at the same time.

Nothing here knows pixels.  Each stage is a function from a value to a value and runs in a thread of
its own; values stay in order.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

DEPTH = 4
"""Values that may wait before each stage: enough to ride out a slow frame, few enough that a
pipeline of 2160p frames stays small."""
POLL = 0.1
"""Seconds after which a waiting thread looks whether the pipeline was stopped."""

HANGS = 10.0
"""Seconds after which a live stage that does not come back is given up."""

Stage = tuple[str, Callable[[Any], Any]]


@dataclass
class Statistics:
    """Where the time went: seconds of work per stage, waiting left out.

    skipped: frames of the job that an earlier run had done.
    """

    busy: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    skipped: int = 0

    def add(self, stage: str, seconds: float) -> None:
        """Counts work; each stage is counted by one thread alone."""
        self.busy[stage] = self.busy.get(stage, 0.0) + seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the pipeline started."""
        return time.perf_counter() - self.started


@dataclass(frozen=True)
class _End:
    """The last item of a queue: the source is exhausted, or a stage raised ``error``."""

    error: BaseException | None = None


class Stopped(Exception):
    """The pipeline was stopped while a thread waited."""


class Pipeline:
    """Runs ``source`` through ``stages``; iterate over it for the results.

    An error in the source or in a stage is raised from the iterator after every result that came
    before it.  Leaving the ``with`` block stops and joins all threads, in whatever state they are.
    """

    def __init__(self, source: tuple[str, Iterable[Any]], *stages: Stage) -> None:
        self.statistics = Statistics()
        self._stop = threading.Event()
        self._queues: list[queue.Queue[Any]] = [queue.Queue(DEPTH) for _ in range(len(stages) + 1)]
        self._threads = [self._thread(source[0], self._run_source, source, self._queues[0])]
        for stage, inputs, outputs in zip(stages, self._queues, self._queues[1:], strict=False):
            self._threads.append(self._thread(stage[0], self._run_stage, stage, inputs, outputs))

    @staticmethod
    def _thread(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:  # noqa: ANN401
        return threading.Thread(target=target, args=args, name=f"fusematte-{name}", daemon=True)

    def __enter__(self) -> Pipeline:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # an interrupt between two of them
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def __iter__(self) -> Iterator[Any]:
        while not isinstance(item := self._get(self._queues[-1]), _End):
            yield item
        self._stop.set()  # whoever asks again is told at once
        if item.error is not None:
            raise item.error

    def _get(self, source: queue.Queue[Any]) -> Any:  # noqa: ANN401
        while not self._stop.is_set():
            try:
                return source.get(timeout=POLL)
            except queue.Empty:
                continue
        raise Stopped

    def _put(self, target: queue.Queue[Any], item: object) -> None:
        while not self._stop.is_set():
            try:
                target.put(item, timeout=POLL)
            except queue.Full:
                continue
            return
        raise Stopped

    def _run_source(self, source: tuple[str, Iterable[Any]], outputs: queue.Queue[Any]) -> None:
        name, items = source
        end = _End()
        try:
            iterator, done = iter(items), object()
            while (item := self._timed(name, lambda _: next(iterator, done), None)) is not done:
                self._put(outputs, item)
        except Stopped:
            return
        except BaseException as error:
            end = _End(error)
        self._finish(outputs, end)

    def _run_stage(self, stage: Stage, inputs: queue.Queue[Any], outputs: queue.Queue[Any]) -> None:
        name, work = stage
        try:
            while not isinstance(item := self._get(inputs), _End):
                self._put(outputs, self._timed(name, work, item))
            end = item
        except Stopped:
            return
        except BaseException as error:
            end = _End(error)
        self._finish(outputs, end)

    def _finish(self, outputs: queue.Queue[Any], end: _End) -> None:
        try:
            self._put(outputs, end)
        except Stopped:
            return

    def _timed(self, name: str, work: Callable[[Any], Any], item: object) -> Any:  # noqa: ANN401
        begun = time.perf_counter()
        try:
            return work(item)
        finally:
            self.statistics.add(name, time.perf_counter() - begun)


Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Values from one thread to another, of which at most ``capacity`` wait.

    What does not fit drops the oldest, or with ``patient`` waits until there is room.  Whoever
    waits when it is closed, or comes later, gets ``Stopped``.
    """

    def __init__(self, capacity: int, *, patient: bool = False) -> None:
        self._capacity = capacity
        self._patient = patient
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Item) -> int:
        """Adds one; returns how many were dropped for it."""
        with self._changed:
            while self._patient and len(self._waiting) >= self._capacity and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Stopped
            dropped = max(0, len(self._waiting) + 1 - self._capacity)
            for _ in range(dropped):
                self._waiting.popleft()
            self._waiting.append(item)
            self._changed.notify_all()
            return dropped

    def get(self, timeout: float | None = None) -> Item:
        """Takes the oldest; waits up to ``timeout`` seconds, then raises ``TimeoutError``."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            if self._closed:
                raise Stopped
            if not self._waiting:
                raise TimeoutError(f"nothing came in {timeout} s")
            item = self._waiting.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Lets go whoever waits; what is left is dropped."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()


class Relay:
    """The live counterpart of ``Pipeline``: values are pushed, and what comes too fast is dropped.

    Before the first stage ``waiting`` values may wait, of which the newest win; between stages one,
    for which the faster stage waits.  The last stage keeps or sends its result itself.  A stage
    that raises ends the relay: its error is logged and given to whoever pushes next.
    """

    def __init__(self, *stages: Stage, waiting: int) -> None:
        self._boxes: list[Mailbox[Any]] = [Mailbox(waiting)]
        self._boxes += [Mailbox(1, patient=True) for _ in stages[1:]]
        self._error: BaseException | None = None
        targets = [*self._boxes[1:], None]
        self._threads = [
            threading.Thread(
                target=self._run, args=(*stage, box, target), name=f"fusematte-{stage[0]}",
                daemon=True,
            )
            for stage, box, target in zip(stages, self._boxes, targets, strict=True)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def push(self, item: object) -> int:
        """Adds a value; returns how many older ones were dropped for it."""
        if self._error is not None:
            raise self._error
        return self._boxes[0].put(item)

    def close(self) -> bool:
        """Stops and joins the threads, unless called from one of them; may be called twice.

        Returns whether they ended: a stage that hangs is left behind after ``HANGS`` seconds.
        """
        for box in self._boxes:
            box.close()
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(HANGS)
        return not any(thread.is_alive() for thread in others)

    def _run(
        self, name: str, work: Callable[[Any], Any], box: Mailbox[Any], target: Mailbox[Any] | None
    ) -> None:
        try:
            while True:
                result = work(box.get())
                if target is not None:
                    target.put(result)
        except Stopped:
            return
        except BaseException as error:
            log.exception("%s failed", name)
            self._error = error
            for other in self._boxes:
                other.close()


class Feed:
    """A thread that takes the values of a source and hands each to ``push``.

    ended: the source is exhausted, or it or ``push`` raised ``error``.
    """

    def __init__(self, name: str, source: Iterable[Any], push: Callable[[Any], object]) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(source, push), name=f"fusematte-{name}", daemon=True
        )
        self._thread.start()

    def close(self, patience: float) -> None:
        """Stops after the value at hand; waits at most so many seconds for that."""
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


def network_threads(wanted: int | None = None) -> int:
    """As many as are wanted; if nobody says, half of the processors: what decodes, composites and
    encodes at the same time wants the rest.

    Threads of a network wait for the slowest of them, so sharing a processor costs all of them: of
    two beside a process that takes a core of two, live latency had a p99 of 67 ms, of one 25 ms.
    """
    if wanted is not None:
        return wanted
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    return max(1, (processors or 1) // 2)
