"""Writes a trained network as ONNX: fp32, with dynamic height and width in multiples of 32."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fusematte.training.network import STRIDE, LateFusionNetwork

OPSET = 20
OUTPUTS = ("alpha", "foreground", "background", "beta")


class RuntimeNetwork(nn.Module):
    """The network with the four maps as its only outputs, without those for training."""

    def __init__(self, network: LateFusionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: Tensor, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        prediction = self.network(image, previous)
        return prediction.alpha, prediction.foreground, prediction.background, prediction.beta


def export_onnx(network: LateFusionNetwork, path: Path) -> None:
    """Writes ``network`` to ``path``.

    The graph keeps the parameters' names and its batch norms, so that training can continue from
    the file (``training.weights.load_onnx_weights``); runtimes fold them.

    Inputs: ``image`` [N, 3, H, W], RGB, 0..1, and, where the network takes it, ``previous``
    [N, 1, H, W], 0..1.  Outputs: ``alpha``, ``foreground``, ``background``, ``beta``, [N, 1, H, W].

    Convolution weights are stored as fp16 with a cast to fp32, which halves the file size; the
    network still computes in fp32.
    """
    network.eval()
    names = ("image", "previous") if network.config.previous_alpha else ("image",)
    example = tuple(torch.rand(2, 3 if name == "image" else 1, 96, 160) for name in names)
    shape = {0: torch.export.Dim("batch", min=1, max=64)}
    shape |= {
        axis: STRIDE * torch.export.Dim(f"{name}_32", min=1, max=256)
        for axis, name in ((2, "height"), (3, "width"))
    }
    program = torch.onnx.export(
        RuntimeNetwork(network).eval(),
        example,
        input_names=list(names),
        output_names=list(OUTPUTS),
        dynamic_shapes=tuple(shape for _ in names),
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with the exporting machine's paths
    _store_weights_as_half(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def _store_weights_as_half(model: onnx.ModelProto) -> None:
    """Stores each initializer of two or more dimensions as fp16, followed by a cast to fp32."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name, half = tensor.name, numpy_helper.to_array(tensor).astype("float16")
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
