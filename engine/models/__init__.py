"""Model bundles: folders with ``model.onnx`` and a ``manifest.json`` that describes it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from fusematte.engine.errors import ModelError

FORMAT = 1
"""Version of the bundle format that this code reads."""
DEFAULT_MODEL = "edge"
INT8_BOUND = 0.006
"""Largest mean alpha difference to the float network that an int8 network may have."""
MAX_SIDE = 8192
"""Of the network's input, in pixels."""
MAX_MULTIPLE = 1024
SHIPPED = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model on disk, checked against its manifest.

    folder: the bundle's folder.
    takes_previous: whether the network has the input ``previous``, the last frame's alpha.
    multiple: height and width of the network's input must be multiples of this.
    default_size: (height, width) that the model was trained for; other shapes of similar area work.
    """

    name: str
    version: str
    folder: Path
    file: Path
    takes_previous: bool
    multiple: int
    default_size: tuple[int, int]
    manifest: dict[str, Any]

    @property
    def int8(self) -> Path | None:
        """The file of the same network in int8; None if the bundle has none."""
        name = self.manifest.get("int8", {}).get("file")
        own = self.file == self.folder / self.manifest["file"]
        return self.folder / name if name and own else None

    @property
    def int8_is_accurate(self) -> bool:
        """Whether ``int8`` was within ``INT8_BOUND`` when it was made; if not, it is only used on
        request."""
        accuracy = self.manifest.get("int8", {}).get("accuracy", {})
        return bool(accuracy.get("mean", 0.0) <= INT8_BOUND)

    @property
    def quantised(self) -> bool:
        """Whether ``file`` itself is an int8 network, as int8 exports are."""
        return bool(self.manifest.get("export", {}).get("precision") == "int8")

    def without_int8(self) -> Bundle:
        """The same bundle without its int8 network."""
        return replace(self, manifest={k: v for k, v in self.manifest.items() if k != "int8"})

    @property
    def only_size(self) -> tuple[int, int] | None:
        """The (height, width) of an engine built for a single size; None for other models."""
        profile = self._profile
        if profile is None or profile["least"] != profile["most"]:
            return None
        return profile["best"][0], profile["best"][1]

    def takes(self, height: int, width: int) -> bool:
        """Whether the model accepts this input size; an engine was built for a range of them."""
        profile = self._profile
        return profile is None or (
            profile["least"][0] <= height <= profile["most"][0]
            and profile["least"][1] <= width <= profile["most"][1]
        )

    @property
    def _profile(self) -> dict[str, list[int]] | None:
        profile: dict[str, list[int]] | None = (
            self.manifest.get("export", {}).get("engine", {}).get("profile")
        )
        return profile


def shipped_models() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/manifest.json"))


def load_bundle(model: str | PathLike[str] = DEFAULT_MODEL) -> Bundle:
    """Opens a shipped model by name, or a bundle by the path of its folder.

    Raises:
        ModelError: no such bundle, an invalid manifest, or a file that does not match its hash.
    """
    shipped = SHIPPED / str(model)
    folder = shipped if str(model) in shipped_models() else Path(model)
    if not folder.is_dir():
        names = ", ".join(shipped_models()) or "none"
        raise ModelError(
            f"model {str(model)!r} does not exist",
            path=model,
            remedy=f"name a shipped one ({names}) or a bundle folder",
        )
    manifest = _read_manifest(folder / "manifest.json")
    try:
        return _bundle(folder, manifest)
    except KeyError as error:
        raise ModelError.at(folder / "manifest.json", f"{error} is missing") from error
    except ValueError as error:
        raise ModelError.at(folder / "manifest.json", str(error)) from error


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError.at(path, f"the model's manifest cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelError.at(path, f"is not a model manifest of format {FORMAT}")
    return manifest


def _bundle(folder: Path, manifest: dict[str, Any]) -> Bundle:
    file = folder / _file_name(manifest["file"])
    _check_hash(file, manifest["sha256"])
    files = _object(manifest.get("files", {}), "files")
    for name, sha256 in files.items():
        _check_hash(folder / _file_name(name), sha256)
    int8 = _object(manifest.get("int8", {}), "int8").get("file")
    if int8 is not None and _file_name(int8) not in files:
        raise ValueError(f"int8: {int8!r} is not listed in 'files' with its hash")
    multiple = _whole(manifest["multiple"], "multiple", 1, MAX_MULTIPLE)
    size = _object(manifest["default_size"], "default_size")
    height, width = (
        _whole(size[side], f"default_size: {side}", 1, MAX_SIDE) for side in ("height", "width")
    )
    _check_profile(manifest)
    return Bundle(
        name=_text(manifest["name"], "name"),
        version=_text(manifest["version"], "version"),
        folder=folder,
        file=file,
        takes_previous="previous" in _object(manifest["inputs"], "inputs"),
        multiple=multiple,
        default_size=(height, width),
        manifest=manifest,
    )


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string")
    return value


def _object(value: object, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{key} is not a JSON object")
    return value


def _whole(value: object, key: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{key} must be an integer from {least} to {most}, not {value!r}")
    return value


def _file_name(value: object) -> str:
    """A file name without a folder, so that it stays within the bundle."""
    name = _text(value, "a file name")
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0:"):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


def _check_profile(manifest: dict[str, Any]) -> None:
    """Checks the input sizes of an exported engine."""
    engine = _object(_object(manifest.get("export", {}), "export").get("engine", {}), "engine")
    profile = _object(engine.get("profile", {}) or {}, "profile")
    for key in ("least", "best", "most") if profile else ():
        sides = profile[key]
        if not isinstance(sides, list) or len(sides) != 2:
            raise ValueError(f"profile: {key} is not a [height, width] pair")
        for side in sides:
            _whole(side, f"profile: {key}", 1, MAX_SIDE)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _check_hash(file: Path, sha256: str) -> None:
    if not file.is_file():
        raise ModelError.at(
            file, "the model file is missing", remedy="reinstall or export the model again"
        )
    if sha256_of(file) != sha256:
        raise ModelError.at(
            file,
            "its SHA-256 differs from the manifest",
            remedy="reinstall or export the model again",
        )
