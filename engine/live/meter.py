"""Live statistics: frame rate, latency and stage times over the last seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

SPAN = 10.0
"""Seconds over which rates and percentiles are computed."""


@dataclass(frozen=True, kw_only=True)
class LiveStatistics:
    """A snapshot.  Rates and times cover the last seconds, counts the time since the start.

    fps: results per second.
    latency_p50, latency_p99: milliseconds from a frame's arrival to its result.
    frames, dropped, failed: results; frames replaced by newer ones; results without a matte.
    stages: median busy milliseconds per frame, by stage.
    network_size: (height, width) of the last network input.
    budget_ms: the latency budget; None if there is none.
    level: factor on the model's network area; carried: whether frames carry the network's last
        matte instead of waiting for theirs.
    level_changes, last_change: number of changes by the governor, and the last reason.
    holds: whether recent frames kept the budget.
    error: the last error.
    """

    fps: float
    latency_p50: float
    latency_p99: float
    frames: int
    dropped: int
    failed: int
    stages: dict[str, float]
    network_size: tuple[int, int]
    budget_ms: float | None = None
    level: float = 1.0
    carried: bool = False
    level_changes: int = 0
    last_change: str = ""
    holds: bool = True
    error: str = ""

    def __str__(self) -> str:
        stages = " ".join(f"{name} {ms:.0f}" for name, ms in self.stages.items())
        height, width = self.network_size
        text = (
            f"{self.fps:.1f} fps, latency {self.latency_p50:.0f}/{self.latency_p99:.0f} ms "
            f"(p50/p99), {self.dropped} dropped, {stages} ms, network {width}x{height}"
        )
        if self.carried:
            text += " carried"
        if self.budget_ms is not None:
            text += f", budget {self.budget_ms:.0f} ms {'held' if self.holds else 'missed'}"
        return f"{text}, {self.failed} failed: {self.error}" if self.failed else text


@dataclass
class _Sample:
    time: float
    latency: float
    stages: dict[str, float]


@dataclass
class Meter:
    """Collects the statistics of a live session; may be called from any thread.

    clock: in seconds; replaced in tests.
    """

    clock: Callable[[], float] = time.perf_counter
    frames: int = 0
    dropped: int = 0
    failed: int = 0
    error: str = ""
    network_size: tuple[int, int] = (0, 0)
    _samples: deque[_Sample] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def drop(self, count: int) -> None:
        """Counts dropped frames."""
        with self._lock:
            self.dropped += count

    def add(self, latency: float, stages: dict[str, float], error: str | None) -> None:
        """Counts a result; times in seconds."""
        with self._lock:
            self.frames += 1
            if error is not None:
                self.failed, self.error = self.failed + 1, error
            self._samples.append(_Sample(self.clock(), latency, stages))
            self._forget()

    def _forget(self) -> None:
        while self._samples and self._samples[0].time < self.clock() - SPAN:
            self._samples.popleft()

    def snapshot(self) -> LiveStatistics:
        """The current statistics."""
        with self._lock:
            self._forget()
            samples = list(self._samples)
            latencies = [1e3 * sample.latency for sample in samples] or [0.0]
            span = self.clock() - samples[0].time if len(samples) > 1 else 0.0
            names = samples[-1].stages if samples else {}
            return LiveStatistics(
                fps=(len(samples) - 1) / span if span else 0.0,
                latency_p50=float(np.percentile(latencies, 50)),
                latency_p99=float(np.percentile(latencies, 99)),
                frames=self.frames,
                dropped=self.dropped,
                failed=self.failed,
                stages={
                    name: 1e3 * float(np.median([s.stages.get(name, 0.0) for s in samples]))
                    for name in names
                },
                network_size=self.network_size,
                error=self.error,
            )
