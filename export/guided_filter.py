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
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

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
    """He, Sun, Tang, "Guided Image Filtering", equations 14 to 16, at half resolution: each pixel's
    symmetric system is solved by its adjugate."""
    emit = _emitter(graph, "guided_filter")
    side = 2 * COLOR_RADIUS + 1

    def mean(name: str) -> str:
        """The window's mean, clipped at the border: one axis after the other."""
        down = {"kernel_shape": [side, 1], "pads": [COLOR_RADIUS, 0, COLOR_RADIUS, 0]}
        across = {"kernel_shape": [1, side], "pads": [0, COLOR_RADIUS, 0, COLOR_RADIUS]}
        columns = emit("AveragePool", name, count_include_pad=0, **down)
        return emit("AveragePool", columns, count_include_pad=0, **across)

    def times(one: str, other: str) -> str:
        return emit("Mul", one, other)

    def covariance(one: str, other: str) -> str:
        return emit("Sub", mean(times(one, other)), times(means[one], means[other]))

    def determinant(a: str, b: str, c: str, d: str) -> str:
        """a b - c d."""
        return emit("Sub", times(a, b), times(c, d))

    def constant(value: NDArray[Any], name: str) -> str:
        tensor = numpy_helper.from_array(value, f"guided_filter_{name}")
        graph.initializer.append(tensor)
        return tensor.name

    def half(name: str) -> str:
        return emit("AveragePool", name, kernel_shape=[2, 2], strides=[2, 2])

    epsilon = constant(np.array(COLOR_EPSILON, np.float32), "epsilon")
    axis = constant(np.array([1], np.int64), "axis")
    whole_channels = []
    for index in range(3):
        ends = (constant(np.array([index + k], np.int64), f"end_{index}_{k}") for k in range(2))
        whole_channels.append(emit("Slice", "guide", *ends, axis))
    channels, target = [half(channel) for channel in whole_channels], half("alpha")
    means = {name: mean(name) for name in (*channels, target)}
    (aa, ab, ac), (bb, bc), (cc,) = (
        [covariance(one, other) for other in channels[index:]] for index, one in enumerate(channels)
    )
    aa, bb, cc = (emit("Add", variance, epsilon) for variance in (aa, bb, cc))
    cross = [covariance(channel, target) for channel in channels]
    m01, m02, m12 = (
        determinant(ac, bc, ab, cc), determinant(ab, bc, ac, bb), determinant(ab, ac, aa, bc),
    )  # fmt: skip
    adjugate = (
        (determinant(bb, cc, bc, bc), m01, m02),
        (m01, determinant(aa, cc, ac, ac), m12),
        (m02, m12, determinant(aa, bb, ab, ab)),
    )

    def dot(row: Sequence[str], column: Sequence[str]) -> str:
        return emit("Sum", *(times(a, b) for a, b in zip(row, column, strict=True)))

    whole = dot((aa, ab, ac), adjugate[0])
    slopes = [emit("Div", dot(row, cross), whole) for row in adjugate]
    offset = emit("Sub", means[target], dot(slopes, [means[channel] for channel in channels]))
    twice = constant(np.array([1, 1, 2, 2], np.float32), "twice")

    def enlarged(name: str) -> str:
        return emit("Resize", name, "", twice, mode="linear")

    large = [enlarged(mean(slope)) for slope in slopes]
    value = emit("Add", dot(large, whole_channels), enlarged(mean(offset)))
    zero, one = (constant(np.array(v, np.float32), f"limit_{v}") for v in (0, 1))
    sharp = emit("Clip", value, zero, one)
    certain = constant(np.array(CERTAIN, np.float32), "certain")
    distance = emit("Min", "alpha", emit("Sub", one, "alpha"))
    doubt = emit("Min", emit("Div", distance, certain), one)
    change = times(doubt, emit("Sub", sharp, "alpha"))
    emit("Add", "alpha", change, output="guided")
