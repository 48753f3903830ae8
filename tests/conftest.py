"""Fixtures for all tests."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fusematte.engine import models
from fusematte.engine.matting import matter
from fusematte.engine.media.svt_av1 import real_time_threads

SMALL = 96, 160
"""Height and width of a network's input that is quick: 15360 pixels, a tenth of the usual."""
SS_DISABLE = 2
"""Of <signal.h>: no alternate signal stack."""


class _SignalStack(ctypes.Structure):
    """``stack_t`` of <signal.h>."""

    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


@pytest.fixture(autouse=True)
def signals_on_the_normal_stack() -> None:
    """Libraries that earlier tests loaded leave an alternate signal stack that is gone or too small
    for the registers of this processor: the next signal, a Ctrl-C of a test, say, would crash."""
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_SignalStack(flags=SS_DISABLE)), None)


@pytest.fixture(autouse=True)
def no_thread_goes_first() -> Iterator[None]:
    """What a real-time thread starts is real-time too, browsers, say: other tests would starve."""
    yield
    assert not real_time_threads()


@pytest.fixture(autouse=True, scope="session")
def signals_are_heard() -> None:
    """Shells start what runs in the background deaf to Ctrl-C, nohup to a closed terminal, and
    their children with it; of a process that listens they hear it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """The directory of real clips beside the checkout; the test is skipped where there is none."""
    path = Path(__file__).parents[2] / "shared" / "clips"
    if not path.is_dir():
        pytest.skip("no real clips here")
    return path


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests compile and measure is nobody else's, and what others did is not theirs; the
    processes of a run in parallel share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["FUSEMATTE_CACHE"] = str(shared / "cache")


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks see a small copy of the frames, for tests of all but the mattes' quality."""
    load = models.load_bundle
    monkeypatch.setattr(
        matter, "load_bundle", lambda model: replace(load(model), default_size=SMALL)
    )


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same for other processes: a bundle of the default network."""
    folder = tmp_path_factory.mktemp("models") / "small"
    shutil.copytree(models.SHIPPED / models.DEFAULT_MODEL, folder)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["default_size"] = dict(zip(("height", "width"), SMALL, strict=True))
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return str(folder)
