"""The guided filter inside an engine: from standard layers, or as a layer of our own.

Both add the input ``guide`` [N, 1, H, W], the frame's luma (0..1) averaged to the network's size,
and the outputs ``slope`` and ``offset`` [N, 1, H, W].  The refined alpha at full resolution is
clip(slope * luma + offset, 0, 1), with both interpolated bilinearly, as in
``engine.matting.refine``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fusematte.engine.backends.tensorrt.plugin import PLUGIN
from fusematte.engine.matting.refine import EPSILON, RADIUS

GUIDED_FILTERS = ("external", "native", "plugin")


def add_guided_filter(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """A copy of the network with the guided filter behind its alpha, in fp32."""
    filtered = onnx.ModelProto()
    filtered.CopyFrom(model)
    if kind == "external":
        return filtered
    graph = filtered.graph
    image = next(value for value in graph.input if value.name == "image")
    guide = onnx.ValueInfoProto()
    guide.CopyFrom(image)
    guide.name = "guide"
    guide.type.tensor_type.shape.dim[1].dim_value = 1
    graph.input.append(guide)
    slope = _plugin_slope(graph) if kind == "plugin" else _native_slope(graph)
    emit = _emitter(graph, "guided_offset")
    emit("Sub", "alpha", emit("Mul", slope, "guide"), output="offset")
    shape = [(d.dim_param or d.dim_value) for d in guide.type.tensor_type.shape.dim]
    for name in ("slope", "offset"):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return filtered


def without_guided_filter(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network before the guided filter."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    kept = [node for node in graph.node if not node.name.startswith("guided_")]
    for field, values in (
        (graph.node, kept),
        (graph.input, [value for value in graph.input if value.name != "guide"]),
        (graph.output, [v for v in graph.output if v.name not in ("slope", "offset")]),
    ):
        values = list(values)
        del field[:]
        field.extend(values)
    return plain


def _emitter(graph: onnx.GraphProto, prefix: str) -> Callable[..., str]:
    """A function that appends a node and returns its output's name."""
    numbers = count()

    def emit(kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:  # noqa: ANN401
        name = f"{prefix}_{next(numbers)}"
        output = output or name
        graph.node.append(helper.make_node(kind, list(inputs), [output], name, **attributes))
        return output

    return emit


def _plugin_slope(graph: onnx.GraphProto) -> str:
    emit = _emitter(graph, "guided_filter")
    return emit(
        PLUGIN.name,
        "guide",
        "alpha",
        output="slope",
        domain="fusematte",
        plugin_version=PLUGIN.version,
        plugin_namespace=PLUGIN.namespace,
        radius=RADIUS,
        epsilon=EPSILON,
    )


def _native_slope(graph: onnx.GraphProto) -> str:
    """The averaged slope of He, Sun, Tang, "Guided Image Filtering", equations 5 and 8."""
    emit = _emitter(graph, "guided_filter")
    side = 2 * RADIUS + 1

    def mean(name: str, output: str = "") -> str:
        """The window's mean, clipped at the border: one axis after the other."""
        down = {"kernel_shape": [side, 1], "pads": [RADIUS, 0, RADIUS, 0]}
        across = {"kernel_shape": [1, side], "pads": [0, RADIUS, 0, RADIUS]}
        columns = emit("AveragePool", name, count_include_pad=0, **down)
        return emit("AveragePool", columns, output=output, count_include_pad=0, **across)

    epsilon = numpy_helper.from_array(np.array(EPSILON, np.float32), "guided_filter_epsilon")
    graph.initializer.append(epsilon)
    guide, alpha = mean("guide"), mean("alpha")
    cross = emit("Sub", mean(emit("Mul", "guide", "alpha")), emit("Mul", guide, alpha))
    variance = emit("Sub", mean(emit("Mul", "guide", "guide")), emit("Mul", guide, guide))
    slope = emit("Div", cross, emit("Add", variance, epsilon.name))
    return mean(slope, "slope")
