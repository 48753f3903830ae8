"""``fusematte export``: exports a model for another runtime, and checks it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fusematte.engine.commands.options import add_json_option, parse_size, talking
from fusematte.engine.errors import UsageError

TARGETS = ("onnx", "openvino", "tensorrt", "tensorrt-rtx", "torch-tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")
GUIDED_FILTERS = ("external", "native", "plugin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model, a bundle folder or .safetensors")
    parser.add_argument("--to", required=True, choices=TARGETS, help="format of the export")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="(%(default)s)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--size", metavar="WxH", help="input size of a TensorRT engine (the model's own)"
    )
    size.add_argument(
        "--sizes", metavar="WxH..WxH", help="smallest and largest input size of a TensorRT engine"
    )
    parser.add_argument(
        "--guided-filter",
        default="external",
        choices=GUIDED_FILTERS,
        help="guided filter after a TensorRT engine, within it as standard layers, or as a plugin "
        "(%(default)s)",
    )
    parser.add_argument(
        "--frames",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="videos, pictures or WebDataset tars for the check and the calibration of int8 (the "
        "demo's portrait; required for int8)",
    )
    parser.add_argument("--output-dir", "-o", type=Path, required=True, metavar="DIR")
    add_json_option(parser)


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    with talking(options) as (lines, _):

        def tell(stage: str) -> None:
            if lines is not None:
                lines.tell("stage", stage=stage)
            elif not options.quiet and sys.stderr.isatty():
                print(f"{stage} ...", file=sys.stderr, flush=True)

        result = _export(options, tell)["export"]
    if lines is not None:
        lines.tell("done", output=str(options.output_dir), **result)
    elif not options.quiet:
        print(f"{options.output_dir}: {_summary(result)}")
    return 0


def _export(options: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Exports; returns the manifest."""
    try:
        from fusematte.export.exporter import Request, export, open_source
    except ImportError as error:
        raise UsageError(
            f"export needs {error.name}", remedy="pip install 'fusematte[export]'"
        ) from error
    if "tensorrt" not in options.to and (
        options.size or options.sizes or options.guided_filter != "external"
    ):
        raise UsageError(
            f"--size, --sizes and --guided-filter are for TensorRT; {options.to} takes any size",
            option="to",
        )
    bundle = open_source(options.model)
    request = Request(
        bundle=bundle,
        size=parse_size(options.size, multiple=bundle.multiple) if options.size else None,
        sizes=_sizes(options.sizes, bundle.multiple) if options.sizes else None,
        guided_filter=options.guided_filter,
        target=options.to,
        precision=options.precision,
        frames=tuple(options.frames),
    )
    return export(request, options.output_dir, tell)


def _sizes(text: str, multiple: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Parses a range of sizes, ``WxH..WxH``.

    Raises:
        UsageError: it is none, or the first size is larger than the second.
    """
    least, dots, most = text.partition("..")
    if not dots:
        raise UsageError(
            f"{text!r} is not a range of sizes",
            option="sizes",
            remedy="write WxH..WxH, as in 256x160..1024x576",
        )
    low, high = (parse_size(size, multiple=multiple) for size in (least, most))
    if low[0] > high[0] or low[1] > high[1]:
        raise UsageError(f"{text}: the first is larger than the second", option="sizes")
    return low, high


def _summary(export: dict[str, Any]) -> str:
    """The result of the check in one line."""
    accuracy = export["accuracy"]
    text = (
        f"{export['target']}, {export['precision']}; alpha off by {accuracy['mean']:.5f} "
        f"(band {accuracy['band_mean']:.5f}, at most {accuracy['max']:.3f}) over "
        f"{accuracy['frames']} frames, bound {accuracy['bound']}; ran {accuracy['ran']} in "
        f"{accuracy['precision']} on {accuracy['device']}"
    )
    if export.get("engine_ran") is False:
        text += "; the engine itself was not run: there is no GPU here"
    if "speed" in export:
        times = (f"{ms} ms in {name}" for name, ms in export["speed"]["median_ms"].items())
        text += f"; {' against '.join(times)}"
    return text
