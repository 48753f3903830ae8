"""Parallel processing of segments, by processes of this machine or of a cluster."""

from __future__ import annotations

import _thread
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, Protocol, Self, TypeVar

from fusematte.engine.errors import BackendError, check_range
from fusematte.engine.pipeline import processors

Result = TypeVar("Result")

MOST = 64
"""Processes side by side; each takes a few hundred megabytes."""
END_SECONDS = 10.0
"""How long a worker has to leave a playable file when the job's process is gone."""


class Workers(Protocol):
    """Processes that do a job's tasks.

    threads: CPU threads for the network of one task, unless the job's options say otherwise.
    """

    threads: int

    def map(
        self,
        function: Callable[..., Result],
        tasks: Sequence[tuple[Any, ...]],
        threads: int,
        backend: str,
    ) -> Iterator[Result]:
        """The results of ``function(*task)`` for all tasks, in the order in which they are done.

        Each task gets ``threads`` processors, and a GPU if ``backend`` needs one.

        Raises:
            FuseMatteError: what a task raised; the others are cancelled.
            BackendError: a task's worker died.
        """
        ...


class Processes:
    """Worker processes of this machine.  They end with this one, however it ends.

    Raises:
        UsageError: the count is not from 1 to MOST.
    """

    def __init__(self, count: int) -> None:
        check_range("jobs", count, 1, MOST)
        self.threads = max(1, processors() // count)
        context = get_context("spawn")
        # Nothing is ever sent: the end that the workers hold tells them when ours is closed.
        theirs, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(count, context, _begin, (theirs,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._lifeline.close()  # what is under way is broken off
        self._pool.shutdown(cancel_futures=True)
        self._lifeline.close()

    def map(
        self,
        function: Callable[..., Result],
        tasks: Sequence[tuple[Any, ...]],
        threads: int,  # noqa: ARG002
        backend: str,  # noqa: ARG002
    ) -> Iterator[Result]:
        """See ``Workers.map``."""
        futures = [self._pool.submit(_do, function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise BackendError(
                "a worker process died, perhaps for want of memory",
                remedy="--resume goes on, with fewer --jobs if it happens again",
            ) from error
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._lifeline.close()
            for future in futures:
                future.cancel()
            wait(futures)
            raise


_idle, _over = threading.Event(), threading.Event()
"""In a worker: whether it has no task, and whether the job has ended."""


def _begin(lifeline: Connection) -> None:
    """Sets up a worker process: it watches the lifeline and ignores Ctrl-C, which the job's process
    handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    _idle.set()
    threading.Thread(target=_mind, args=(lifeline,), daemon=True).start()


def _mind(lifeline: Connection) -> None:
    """Interrupts the task, as Ctrl-C does, when the job closes its end of the lifeline, so that the
    unfinished file can be played.  Ends this process when the job's process has ended."""
    with suppress(EOFError, OSError):
        lifeline.recv()
    _over.set()
    if not _idle.is_set():
        _thread.interrupt_main(signal.SIGTERM)
    job = parent_process()
    assert job is not None
    job.join()
    _idle.wait(END_SECONDS)
    os._exit(1)


def _do(function: Callable[..., Result], task: tuple[Any, ...]) -> Result:
    _idle.clear()
    try:
        if _over.is_set():
            raise KeyboardInterrupt
        return function(*task)
    finally:
        _idle.set()
