"""Model bundles: what is shipped, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from fusematte.engine.errors import ModelError
from fusematte.engine.models import DEFAULT_MODEL, FORMAT, Bundle, load_bundle, shipped_models

NETWORK = b"the bytes of a network"
MANIFEST: dict[str, Any] = {
    "format": FORMAT,
    "name": "mine",
    "version": "1.2.3",
    "file": "model.onnx",
    "sha256": hashlib.sha256(NETWORK).hexdigest(),
    "inputs": {"image": {}, "previous": {}},
    "outputs": {},
    "multiple": 32,
    "default_size": {"height": 288, "width": 512},
}


def write_bundle(folder: Path, **changes: object) -> Path:
    """A bundle folder; a change to None leaves the key out."""
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(NETWORK)
    manifest = {key: value for key, value in (MANIFEST | changes).items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_bundles_are_whole(name: str) -> None:
    bundle = load_bundle(name)
    assert bundle.name == name
    assert all(side % bundle.multiple == 0 for side in bundle.default_size)
    assert set(bundle.manifest["inputs"]) <= {"image", "previous"}
    assert {"alpha", "foreground", "background"} <= set(bundle.manifest["outputs"])
    provenance = bundle.manifest["provenance"]
    assert provenance["training_data"]
    assert "GPL-3.0" in provenance["teacher"]


def test_default_model_is_shipped() -> None:
    assert DEFAULT_MODEL in shipped_models()
    assert load_bundle().name == DEFAULT_MODEL


@pytest.mark.parametrize(
    ("least", "most", "only"),
    [([288, 512], [288, 512], (288, 512)), ([160, 256], [576, 1024], None)],
)
def test_an_engine_takes_the_sizes_that_it_was_built_for(
    tmp_path: Path, least: list[int], most: list[int], only: tuple[int, int] | None
) -> None:
    profile = {"least": least, "best": [288, 512], "most": most}
    bundle = load_bundle(write_bundle(tmp_path / "m", export={"engine": {"profile": profile}}))
    assert bundle.only_size == only
    assert bundle.takes(*least) and bundle.takes(288, 512) and bundle.takes(*most)
    assert not bundle.takes(most[0] + 32, most[1]) and not bundle.takes(least[0], least[1] - 32)
    assert load_bundle(write_bundle(tmp_path / "any")).takes(8192, 32)


def test_bundle_by_its_folder(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "m")
    expected = Bundle(
        name="mine",
        version="1.2.3",
        folder=folder,
        file=folder / "model.onnx",
        takes_previous=True,
        multiple=32,
        default_size=(288, 512),
        manifest=MANIFEST,
    )
    assert load_bundle(folder) == load_bundle(str(folder)) == expected


def test_network_without_the_previous_alpha(tmp_path: Path) -> None:
    assert not load_bundle(write_bundle(tmp_path / "m", inputs={"image": {}})).takes_previous


def test_unknown_model_lists_the_shipped_ones() -> None:
    with pytest.raises(ModelError, match="model 'huge' does not exist") as caught:
        load_bundle("huge")
    assert all(name in str(caught.value) for name in shipped_models())


def test_tampered_network(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "m")
    (folder / "model.onnx").write_bytes(NETWORK[:-1] + b"!")
    with pytest.raises(ModelError, match="SHA-256"):
        load_bundle(folder)


def test_missing_network(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "m")
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx: .*missing"):
        load_bundle(folder)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest\.json: .*cannot be read"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"edge"', "{}", '{"format": 99}', "\udcff"], ids=ascii
)
def test_manifest_of_another_kind(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match="manifest"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("key", sorted(set(MANIFEST) - {"outputs"}))
def test_manifest_without_a_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelError, match="manifest"):
        load_bundle(write_bundle(tmp_path / "m", **{key: None}))


@pytest.mark.parametrize(
    ("key", "value"), [("default_size", "288x512"), ("inputs", 3), ("file", ["model.onnx"])]
)
def test_manifest_with_a_wrong_value(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ModelError, match="manifest"):
        load_bundle(write_bundle(tmp_path / "m", **{key: value}))


DAMAGE: list[dict[str, Any]] = [
    *({"multiple": value} for value in (0, -32, "x", 10**9, 1.5, True, [32])),
    *({"default_size": value} for value in ("a", [], {"height": 0, "width": 512})),
    {"default_size": {"height": 60000, "width": 512}},
    {"default_size": {"height": "a", "width": 512}},
    {"default_size": {"height": 288}},
    *({"int8": value} for value in ("model-int8.onnx", 1, {"file": "../../../../etc/passwd"})),
    {"int8": {"file": "model-int8.onnx"}},
    *({"files": value} for value in ([1], "x", {"../secret": "0"}, {"/etc/passwd": "0"})),
    *({"file": value} for value in (1, "../model.onnx", "/etc/passwd", "", "..", "a\\b")),
    {"sha256": 5},
    *({"inputs": value} for value in ("x", 3, None)),
    *({"name": value} for value in (1, None)),
    {"export": []},
    {"export": {"engine": {"profile": {"least": 1, "best": [1, 2], "most": [1, 2]}}}},
    {"export": {"engine": {"profile": {"least": [1, 2]}}}},
]


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_damaged_manifest_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"manifest|SHA-256"):
        load_bundle(write_bundle(tmp_path / "m", **damage))


def test_a_manifest_of_endless_depth(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "m")
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="manifest cannot be read"):
        load_bundle(folder)
