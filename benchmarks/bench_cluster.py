"""A long job on a Ray cluster of two machines, both processes on this one.

    python benchmarks/bench_cluster.py [--seconds 60] [--stretch 300]

Each machine has one processor, to which all of its processes are bound: without that the encoder
of one task would take the other machine's.  Writes benchmarks/results/cluster.json: wall time on
one machine and on two (median of the repeats, in turns), the speed-up, and of a run that loses a
worker whether the output is frame-exact.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from bench_job import SOURCE
from bench_kill import content
from long_clip import make_long_clip
from machine import machine
from ray.cluster_utils import Cluster

from fusematte.engine.jobs.run import run
from fusematte.engine.media import segments

RESULTS = Path(__file__).parent / "results" / "cluster.json"


def on_machines(count: int, clip: Path, output: Path, *, kill: bool = False) -> dict[str, Any]:
    """One job on so many machines, which are started before and stopped after."""
    memory = {"object_store_memory": 100_000_000}
    head = {"num_cpus": 1, "include_dashboard": False, **memory}
    processors = sorted(os.sched_getaffinity(0))
    try:  # what a process starts is bound to the processors that it is bound to
        os.sched_setaffinity(0, processors[:1])
        machines = Cluster(initialize_head=True, head_node_args=head)
        for processor in processors[1:count]:
            os.sched_setaffinity(0, [processor])
            machines.add_node(num_cpus=1, **memory)
    finally:
        os.sched_setaffinity(0, processors)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(killed,), daemon=True)
    if kill:
        killer.start()
    try:
        begun = time.perf_counter()
        done = run(clip, output, background="blur", cluster=machines.address)
        wall = time.perf_counter() - begun
    finally:
        machines.shutdown()
    return {"frames": done.frames, "wall_s": round(wall, 2), "killed": len(killed)}


def kill_a_worker(killed: list[int]) -> None:
    """Kills the first of this process's workers that is in the middle of a stretch."""
    while not killed:
        for process in psutil.Process().children(recursive=True):
            try:
                busy = "".join(process.cmdline()[:1]).startswith("ray::work")
            except psutil.Error:
                continue
            if busy:
                time.sleep(2)
                process.kill()
                killed.append(process.pid)
                return
        time.sleep(0.1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SOURCE, help="a video of people")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--stretch", type=int, default=300, help="frames")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    segments.FRAMES = args.stretch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        make_long_clip(args.clip, clip, args.seconds, key_frames=args.stretch // 3)
        here = run(clip, folder / "here.mp4", background="blur")
        walls: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(args.repeats):
            for count, found in walls.items():
                found.append(on_machines(count, clip, folder / f"{count}.mp4")["wall_s"])
                print(count, found, flush=True)
        lossy = on_machines(2, clip, folder / "lossy.mp4", kill=True)
        ours, alone = content(folder / "lossy.mp4"), content(folder / "here.mp4")
        exact = (ours.times, ours.sound) == (alone.times, alone.sound)
    one, two = (statistics.median(found) for found in walls.values())
    results = {
        "machine": machine(),
        "frames": here.frames,
        "stretch": args.stretch,
        "without_cluster_s": round(here.seconds, 2),
        "one_machine_s": one,
        "two_machines_s": two,
        "speed_up": round(one / two, 2),
        "processors": {"one": 1, "two": 2},
        "killed_worker": {**lossy, "frame_exact": exact},
    }
    args.results.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
