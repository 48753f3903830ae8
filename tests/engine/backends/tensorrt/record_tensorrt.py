"""Records the APIs of TensorRT's wheels: ``python record_tensorrt.py WHEEL...``.

TensorRT-RTX is imported, and each method's own signature is kept.  The bindings of TensorRT 10 and
11 load only beside their libraries, which need a GPU's driver: of those the names in the binary are
kept, as far as TensorRT-RTX has a class with a member of that name.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import tensorrt_rtx_bindings as rtx

CLASSES = (
    "Runtime",
    "ICudaEngine",
    "IExecutionContext",
    "IRuntimeConfig",
    "IRuntimeCache",
    "Builder",
    "IBuilderConfig",
    "INetworkDefinition",
    "OnnxParser",
    "IOptimizationProfile",
    "IPluginRegistry",
)
RESULT = Path(__file__).with_name("tensorrt_surfaces.json")


def rtx_surface() -> dict[str, Any]:
    """Every member of every class, with the arguments that its docstring names."""
    return {
        "module": sorted(name for name in dir(rtx) if not name.startswith("_")),
        "classes": {
            name: {
                member: signatures(getattr(getattr(rtx, name), member).__doc__ or "")
                for member in dir(getattr(rtx, name))
                if not member.startswith("_")
            }
            for name in CLASSES
        },
    }


def signatures(text: str) -> list[list[str]]:
    """The argument names of each overload, "?" at those with a default; none for properties."""
    found = re.findall(r"\(self: [^,)]*(.*?)\) -> ", text)
    return [
        [
            name + ("?" if default else "")
            for name, default in re.findall(r", (\w+): (?:[^,=\[]|\[[^\]]*\])*(=)?", arguments)
        ]
        for arguments in found
    ]


def binary_surface(wheel: Path, like: dict[str, Any]) -> dict[str, Any]:
    """The same for a wheel that cannot be imported; merged strings keep their ends only."""
    with zipfile.ZipFile(wheel) as archive:
        library = next(name for name in archive.namelist() if name.endswith("tensorrt.so"))
        data = archive.read(library)

    def has(name: str) -> bool:
        return name.encode() + b"\0" in data

    return {
        "module": [name for name in like["module"] if has(name)],
        "classes": {
            kind: {member: shape for member, shape in members.items() if has(member)}
            for kind, members in like["classes"].items()
        },
    }


def main() -> None:
    """Command line."""
    surfaces = {f"tensorrt_rtx {rtx.__version__}": rtx_surface()}
    (like,) = surfaces.values()
    for wheel in map(Path, sys.argv[1:]):
        version = wheel.name.split("-")[1]
        surfaces[f"tensorrt {version}"] = binary_surface(wheel, like)
    RESULT.write_text(json.dumps(surfaces, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
