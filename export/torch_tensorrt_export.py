"""Export with Torch-TensorRT: PyTorch programs with TensorRT engines, made on their GPU."""

from __future__ import annotations

from pathlib import Path

import torch

from fusematte.engine.errors import ExportError, first_line
from fusematte.export.to_onnx import RuntimeNetwork
from fusematte.training.network import LateFusionNetwork


def write_program(
    network: LateFusionNetwork, file: Path, *, size: tuple[int, int], half: bool
) -> str:
    """Compiles ``network`` for one (height, width) into ``file``; returns Torch-TensorRT's version.

    half: use fp16 where autocast allows it.

    Raises:
        ExportError: there is no CUDA GPU, Torch-TensorRT is not installed, or it fails.
    """
    if not torch.cuda.is_available():
        raise ExportError(
            "torch-tensorrt compiles on the GPU that will run the export, and PyTorch finds none",
            remedy="export on that machine, with a CUDA build of PyTorch",
        )
    try:
        import torch_tensorrt
    except (ImportError, OSError) as error:
        raise ExportError(
            f"torch-tensorrt cannot be loaded: {error}", remedy="pip install torch-tensorrt"
        ) from error
    channels = (3, 1) if network.config.previous_alpha else (3,)
    inputs = tuple(torch.rand(1, count, *size, device="cuda") for count in channels)
    try:
        program = torch.export.export(RuntimeNetwork(network).eval().cuda(), inputs)
        compiled = torch_tensorrt.dynamo.compile(
            program,
            inputs,
            enable_autocast=half,
            autocast_low_precision_type=torch.float16 if half else None,
        )
        torch_tensorrt.save(
            compiled, str(file), output_format="exported_program", arg_inputs=list(inputs)
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(
            f"torch-tensorrt cannot compile the network: {first_line(error)}"
        ) from error
    return str(torch_tensorrt.__version__)
