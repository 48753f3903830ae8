"""Engines built on this machine, kept on disk: whole and for this machine, or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)

MAGIC = b"FUSEMATTE-ENGINE-1\n"


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything that an engine depends on; with any other value it is another engine's key."""

    flavour: str
    version: str
    gpu: str
    compute_capability: str
    driver: str
    model_sha256: str
    precision: str
    kind: str = "engine"

    @property
    def file_name(self) -> str:
        """A name that no other key has."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.bin"


def default_folder() -> Path:
    """Where caches go on this system; FUSEMATTE_CACHE names another place."""
    if chosen := os.environ.get("FUSEMATTE_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "fusematte"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fusematte"


class EngineCache:
    """A folder of engines.  What is damaged or foreign is told of and built anew."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def load(self, key: EngineKey) -> bytes | None:
        """The engine of this key, or None."""
        path = self.folder / key.file_name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        header, _, plan = data.removeprefix(MAGIC).partition(b"\n")
        expected = {**asdict(key), "sha256": hashlib.sha256(plan).hexdigest()}
        try:
            whole = data.startswith(MAGIC) and json.loads(header) == expected
        except ValueError:
            whole = False
        if whole:
            return plan
        log.warning("%s: damaged or made elsewhere; it is built anew", path)
        return None

    def store(self, key: EngineKey, plan: bytes) -> None:
        """Keeps an engine; a folder that cannot be written is told of, and costs the next start."""
        header = {**asdict(key), "sha256": hashlib.sha256(plan).hexdigest()}
        partial = ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self.folder, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + json.dumps(header).encode() + b"\n" + plan)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).replace(self.folder / key.file_name)
        except OSError as error:
            if partial:
                Path(partial).unlink(missing_ok=True)
            log.warning("%s: the engine cannot be kept: %s", self.folder, error)
