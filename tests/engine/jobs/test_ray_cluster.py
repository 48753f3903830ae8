"""Work on a Ray cluster of two machines, both of them processes here, and what can go wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from tests.helpers import content, make_clip, pictures_of

from fusematte.cli import main
from fusematte.engine.errors import BackendError, InputError
from fusematte.engine.jobs.ray_cluster import Cluster
from fusematte.engine.jobs.run import run
from fusematte.engine.media import segments

OPTIONS = {"g": "8", "keyint_min": "8"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two machines with one processor each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Machines

    memory = {"object_store_memory": 80_000_000}
    head = {"num_cpus": 1, "include_dashboard": False, **memory}
    machines = Machines(initialize_head=True, head_node_args=head)
    machines.add_node(num_cpus=1, **memory)
    yield machines.address
    machines.shutdown()


class Killer(threading.Thread):
    """Kills the first process that it finds at work on a segment."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.killed: list[int] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.killed and not self.stop.is_set():
            for process in psutil.Process().children(recursive=True):
                if is_at_work(process):
                    time.sleep(0.5)  # in the middle of it
                    process.kill()
                    self.killed.append(process.pid)
                    return
            time.sleep(0.05)


def is_at_work(process: psutil.Process) -> bool:
    try:
        return "".join(process.cmdline()[:1]).startswith("ray::work")
    except psutil.Error:
        return False


@pytest.mark.slow
def test_a_cluster_of_ones_own_listens_to_this_machine_alone(tmp_path: Path) -> None:
    """In a process of its own: Ray starts once in each.  Before the other tests' cluster, which it
    would join."""
    pytest.importorskip("ray")
    code = (
        "import psutil; from fusematte.engine.jobs.ray_cluster import Cluster\n"
        "with Cluster('auto') as cluster:\n"
        "    here = psutil.Process()\n"
        "    for process in (here, *here.children(recursive=True)):\n"
        "        for line in process.net_connections('inet'):\n"
        "            if line.status == 'LISTEN': print(process.name(), line.laddr.ip)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    listening = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert {"raylet", "gcs_server"} <= set(listening)
    assert {address.removeprefix("::ffff:") for address in listening.values()} == {"127.0.0.1"}
    assert "other machines may reach it" not in done.stderr


def test_a_cluster_that_does_not_start_is_told(tmp_path: Path) -> None:
    """In a process of its own, as Ray keeps what it began.  Before the other tests' cluster, which
    it would join."""
    pytest.importorskip("ray")
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    command = ["run", "-q", str(clip), str(tmp_path / "out.mp4"), "--cluster", "auto"]
    done = subprocess.run(
        [sys.executable, "-m", "fusematte", *command], capture_output=True, text=True,
        env={**os.environ, "RAY_TMPDIR": "/dev/null/ray"},
    )  # fmt: skip
    assert done.returncode == 8, done.stderr
    assert "does not start here" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_long_job_survives_a_killed_worker(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_model: str
) -> None:
    monkeypatch.setattr(segments, "FRAMES", 16)
    options: dict[str, Any] = {"background": "blur", "model": small_model}
    clip = make_clip(tmp_path / "in.mp4", frames=48, audio=True, options=OPTIONS)
    run(clip, tmp_path / "here.mp4", **options)
    killer = Killer()
    killer.start()
    done = run(clip, tmp_path / "out.mp4", **options, cluster=address)
    killer.stop.set()
    assert killer.killed
    assert done.frames == 48
    assert content(tmp_path / "out.mp4") == content(tmp_path / "here.mp4")
    for a, b in zip(
        pictures_of(tmp_path / "out.mp4"), pictures_of(tmp_path / "here.mp4"), strict=True
    ):
        assert np.abs(a.astype(int) - b).mean() < 3
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "here.mp4", "out.mp4"}


def test_errors_of_tasks_and_a_batch(address: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no machine of the Ray cluster has 64 CPU"):
        run(
            make_clip(tmp_path / "x.mp4", frames=2),
            tmp_path / "x-out.mp4",
            cluster=address,
            threads=64,
        )
    (tmp_path / "x.mp4").unlink()
    with pytest.raises(InputError, match="missing"):
        run(tmp_path / "missing.mp4", tmp_path / "out.mp4", cluster=address)
    make_clip(tmp_path / "a.mp4", frames=2)
    (tmp_path / "b.mp4").write_text("no video")
    output = tmp_path / "out"
    command = ["batch", "-q", str(tmp_path), "-o", str(output), "--cluster", address]
    assert main(command) == 3
    assert content(output / "a.mp4").times == content(tmp_path / "a.mp4").times
    assert not list(output.glob("*.segments"))


def test_addresses_that_cannot_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    with socket.socket() as taken:  # a port that nobody listens at
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for text, reason in (
            (f"127.0.0.1:{port}", "no answer"),
            ("nowhere", "write auto, HOST:PORT"),
        ):
            command = ["run", "-q", str(clip), str(tmp_path / "out.mp4"), "--cluster", text]
            assert main(command) == 8
            (line,) = capfd.readouterr().err.splitlines()
            assert reason in line and text in line
    assert not list(tmp_path.glob("out*"))


class _Ray(ModuleType):
    """What the engine asks of Ray before it has a cluster: none runs here, one is started."""

    def __init__(self, listens_on: str) -> None:
        super().__init__("ray")
        self.begun: list[dict[str, Any]] = []
        self._private = SimpleNamespace(ray_constants=SimpleNamespace(ENABLE_RAY_CLUSTER=True))
        self.util = SimpleNamespace(get_node_ip_address=lambda: listens_on)

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:  # noqa: ANN401
        if options.get("address") == "auto":
            raise ConnectionError("no cluster")
        told = os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]
        self.begun.append({**options, "told": told, **vars(self._private.ray_constants)})

    def shutdown(self) -> None:
        pass


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "192.0.2.1"])
def test_what_a_cluster_of_ones_own_is_started_with(
    listens_on: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where Ray is not installed; should a version of it listen elsewhere, that is said."""
    ray = _Ray(listens_on)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    with Cluster("auto"):
        pass
    (options,) = ray.begun
    assert options["_node_ip_address"] == "127.0.0.1" and not options["include_dashboard"]
    assert (options["told"], options["ENABLE_RAY_CLUSTER"]) == ("0", False)
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"  # as it was, for other clusters
    assert ray._private.ray_constants.ENABLE_RAY_CLUSTER
    assert ("other machines may reach it" in caplog.text) == (listens_on != "127.0.0.1")


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"fusematte\[cluster\]"):
        Cluster("auto")
