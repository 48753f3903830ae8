"""The guided filter in colour inside an engine: from standard layers, or as a layer of our own.

Both add the input ``guide`` [N, 3, H, W], the frame's Y'CbCr (0..1, -0.5..0.5) averaged to the
network's size, and the output ``guided`` [N, 1, H, W], the alpha drawn to the edges of the guide,
as in ``engine.matting.refine``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fusematte.cpp_ext import SOLID
from fusematte.engine.backends.tensorrt.plugin import PLUGIN
from fusematte.engine.matting.refine import CERTAIN, COLOR_EPSILON, COLOR_RADIUS


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
    graph.input.append(guide)
    (_plugin if kind == "plugin" else _native)(graph)
    shape = [(d.dim_param or d.dim_value) for d in guide.type.tensor_type.shape.dim]
    shape[1] = 1
    graph.output.append(helper.make_tensor_value_info("guided", TensorProto.FLOAT, shape))
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
        (graph.output, [value for value in graph.output if value.name != "guided"]),
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


def _plugin(graph: onnx.GraphProto) -> None:
    emit = _emitter(graph, "guided_filter")
    emit(
        PLUGIN.name,
        "guide",
        "alpha",
        output="guided",
        domain="fusematte",
        plugin_version=PLUGIN.version,
        plugin_namespace=PLUGIN.namespace,
        radius=COLOR_RADIUS,
        epsilon=COLOR_EPSILON,
        certain=CERTAIN,
    )


def _native(graph: onnx.GraphProto) -> None:
    """He, Sun, Tang, "Guided Image Filtering", equations 14 to 16, at half resolution."""
    layers = _Layers(graph)
    channels = [layers.channel("guide", index) for index in range(3)]
    slopes, offset = _linear_model(
        layers, [layers.half(channel) for channel in channels], layers.half("alpha")
    )
    large = [layers.twice(layers.mean(slope)) for slope in slopes]
    value = layers.sum(layers.dot(large, channels), layers.twice(layers.mean(offset)))
    zero, one = layers.constant(0.0), layers.constant(1.0)
    solid, span = layers.constant(SOLID), layers.constant(CERTAIN - SOLID)
    distance = layers.emit("Min", "alpha", layers.difference(one, "alpha"))
    share = layers.emit("Div", layers.difference(distance, solid), span)
    doubt = layers.emit("Clip", share, zero, one)
    change = layers.difference(layers.emit("Clip", value, zero, one), "alpha")
    layers.emit("Add", "alpha", layers.product(doubt, change), output="guided")


def _linear_model(layers: _Layers, channels: Sequence[str], alpha: str) -> tuple[list[str], str]:
    """Equations 14 and 15: slopes and offset of each pixel, its symmetric system solved by the
    adjugate."""
    means = {name: layers.mean(name) for name in (*channels, alpha)}

    def covariance(one: str, other: str) -> str:
        product = layers.mean(layers.product(one, other))
        return layers.difference(product, layers.product(means[one], means[other]))

    def determinant(a: str, b: str, c: str, d: str) -> str:
        """a b - c d."""
        return layers.difference(layers.product(a, b), layers.product(c, d))

    epsilon = layers.constant(COLOR_EPSILON)
    (aa, ab, ac), (bb, bc), (cc,) = (
        [covariance(one, other) for other in channels[index:]] for index, one in enumerate(channels)
    )
    aa, bb, cc = (layers.sum(variance, epsilon) for variance in (aa, bb, cc))
    m01, m02, m12 = (
        determinant(ac, bc, ab, cc), determinant(ab, bc, ac, bb), determinant(ab, ac, aa, bc),
    )  # fmt: skip
    adjugate = (
        (determinant(bb, cc, bc, bc), m01, m02),
        (m01, determinant(aa, cc, ac, ac), m12),
        (m02, m12, determinant(aa, bb, ab, ab)),
    )
    whole = layers.dot((aa, ab, ac), adjugate[0])
    cross = [covariance(channel, alpha) for channel in channels]
    slopes = [layers.emit("Div", layers.dot(row, cross), whole) for row in adjugate]
    offset = layers.difference(means[alpha], layers.dot(slopes, [means[c] for c in channels]))
    return slopes, offset


class _Layers:
    """Appends standard layers to a graph; each method returns its result's name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = count()
        self.emit = _emitter(graph, "guided_filter")

    def constant(self, value: float | Sequence[int] | Sequence[float]) -> str:
        kind = np.int64 if isinstance(value, list) else np.float32
        name = f"guided_filter_constant_{next(self._constants)}"
        self._graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
        return name

    def channel(self, name: str, index: int) -> str:
        start, stop, axis = (self.constant([number]) for number in (index, index + 1, 1))
        return self.emit("Slice", name, start, stop, axis)

    def half(self, name: str) -> str:
        return self.emit("AveragePool", name, kernel_shape=[2, 2], strides=[2, 2])

    def twice(self, name: str) -> str:
        """Enlarged bilinearly."""
        return self.emit("Resize", name, "", self.constant((1.0, 1.0, 2.0, 2.0)), mode="linear")

    def mean(self, name: str) -> str:
        """The window's mean, clipped at the border: one axis after the other."""
        side = 2 * COLOR_RADIUS + 1
        down = {"kernel_shape": [side, 1], "pads": [COLOR_RADIUS, 0, COLOR_RADIUS, 0]}
        across = {"kernel_shape": [1, side], "pads": [0, COLOR_RADIUS, 0, COLOR_RADIUS]}
        columns = self.emit("AveragePool", name, count_include_pad=0, **down)
        return self.emit("AveragePool", columns, count_include_pad=0, **across)

    def sum(self, one: str, other: str) -> str:
        return self.emit("Add", one, other)

    def difference(self, one: str, other: str) -> str:
        return self.emit("Sub", one, other)

    def product(self, one: str, other: str) -> str:
        return self.emit("Mul", one, other)

    def dot(self, row: Sequence[str], column: Sequence[str]) -> str:
        products = (self.product(a, b) for a, b in zip(row, column, strict=True))
        return self.emit("Sum", *products)
