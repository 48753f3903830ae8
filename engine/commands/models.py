"""``fusematte models``: lists models and describes bundles."""

from __future__ import annotations

import argparse

from fusematte.engine.models import Bundle, load_bundle, shipped_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a shipped model or a bundle folder (all shipped)",
    )


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    for model in options.models or shipped_models():
        print("\n".join(describe(load_bundle(model))))
    return 0


def describe(bundle: Bundle) -> list[str]:
    """A description in lines: version, size, cost, inputs."""
    manifest, (height, width) = bundle.manifest, bundle.default_size
    facts = [f"{bundle.file.stat().st_size / 1e6:.1f} MB"]
    if "parameters" in manifest:
        facts.append(f"{manifest['parameters'] / 1e6:.1f} million parameters")
    if "macs_at_default_size" in manifest:
        billions = manifest["macs_at_default_size"] / 1e9
        facts.append(f"{billions:.1f} billion multiply-accumulates at {width}x{height}")
    memory = "the picture and the previous frame's alpha" if bundle.takes_previous else "a picture"
    lines = [
        f"{bundle.name} {bundle.version}: {bundle.folder}",
        f"  {', '.join(facts)}",
        f"  input: {memory}, sides in multiples of {bundle.multiple}",
    ]
    if bundle.int8 is not None:
        size = bundle.int8.stat().st_size / 1e6
        lines.append(f"  int8 network, {size:.1f} MB, used where it is fastest")
    if export := manifest.get("export"):
        lines.append(f"  exported to {export['target']} in {export['precision']}")
    return lines
