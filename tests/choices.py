"""A model for tests of choices that need no learnt quality."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fusematte.engine.models import SHIPPED


def signed_model(folder: Path) -> Path:
    """The shipped network with a manifest that says it follows choices: what it has not learnt it
    does badly, but guides reach it."""
    shutil.copytree(SHIPPED / "edge", folder)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["inputs"]["previous"]["range"] = [-1, 1]
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder
