"""The cache of what was compiled and measured here."""

from __future__ import annotations

import inspect
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fusematte.engine.backends import cache as module
from fusematte.engine.backends.cache import Cache
from fusematte.engine.backends.tensorrt.backend import EngineKey

KEY = EngineKey(
    flavour="tensorrt",
    version="10.16.1",
    gpu="NVIDIA GeForce RTX 4090",
    compute_capability="8.9",
    driver="13000",
    model_sha256="0" * 64,
    precision="f16",
)


def test_the_cache_keeps_engines_apart(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "engines")
    assert cache.load(KEY) is None
    cache.store(KEY, b"plan\nof many lines\n")
    assert cache.load(KEY) == b"plan\nof many lines\n"
    for name in inspect.signature(EngineKey).parameters:
        assert cache.load(replace(KEY, **{name: "other"})) is None
    assert len(list(cache.folder.iterdir())) == 1


@pytest.mark.parametrize("damage", ["short", "flipped", "foreign", "empty"])
def test_a_damaged_or_foreign_engine_is_refused(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path)
    cache.store(KEY, b"plan" * 100)
    path = tmp_path / KEY.file_name
    data = path.read_bytes()
    if damage == "foreign":  # another machine's file, under this one's name
        other = replace(KEY, gpu="NVIDIA T4")
        cache.store(other, b"plan" * 100)
        (tmp_path / other.file_name).replace(path)
    else:
        flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        path.write_bytes({"short": data[:-1], "flipped": flipped, "empty": b""}[damage])
    assert cache.load(KEY) is None
    assert "made again" in caplog.text


def test_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    cache = Cache(tmp_path)
    cache.store(KEY, b"plan")
    assert "cannot be written" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file" / "cache")
    assert not cache.store(KEY, b"plan")
    assert not cache.store(KEY, b"plan")
    (told,) = caplog.records
    assert told.levelno == logging.WARNING
    assert "set FUSEMATTE_CACHE" in told.message
    assert "\n" not in told.message
    assert cache.load(KEY) is None


def test_what_was_not_used_for_longest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 2500)
    cache = Cache(tmp_path)
    keys = [replace(KEY, gpu=str(number)) for number in range(3)]
    for age, key in enumerate(keys[:2]):
        cache.store(key, b"p" * 800)
        os.utime(tmp_path / key.file_name, (1000 + age, 1000 + age))
    cache.store(replace(KEY, kind="kernels"), b"p" * 800)  # another kind takes none of its room
    assert cache.load(keys[0])  # used now
    cache.store(keys[2], b"p" * 800)
    assert [cache.load(key) is not None for key in keys] == [True, False, True]
    assert cache.load(replace(KEY, kind="kernels"))
