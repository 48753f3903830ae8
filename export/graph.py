"""Preparation of ONNX graphs: constant folding, conversion to fp16."""

from __future__ import annotations

import logging

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

CONVOLUTIONS = {"Conv", "ConvTranspose"}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sqrt", "Pow", "Clip", "Sigmoid"}
REDUCTIONS = {"ReduceMean", "ReduceSum", "GlobalAveragePool"}
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
FIXED_TYPE = {"Cast", "Constant", "ConstantOfShape", "Range", "Shape"}
"""Operators whose output type does not depend on their inputs."""
FP32_INPUTS = {"Resize": (1, 2)}
"""Inputs that must be fp32 according to the ONNX standard."""
EVERYTHING = 1 << 40
"""Size limit of constant folding, in bytes: weights stored as fp16 are folded to fp32 as well."""


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with constants and batch norms folded.  Batch norms without a preceding
    convolution become multiply-add.  Folding is done in fp32: fp16 cannot hold small variances."""
    for library in ("onnxscript", "onnx_ir"):  # they log every node they change
        logging.getLogger(library).setLevel(logging.WARNING)
    folded = optimizer.optimize(
        model, input_size_limit=EVERYTHING, output_size_limit=EVERYTHING, onnx_shape_inference=True
    )
    assert isinstance(folded, onnx.ModelProto)
    _lower_batch_norms(folded)
    for index, node in enumerate(folded.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return folded


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A simplified network in fp16, with inputs and outputs in fp32.

    These stay in fp32: arithmetic before the first convolution (normalisation) and after the last
    one (probabilities and fusion), and means over the whole picture.
    """
    half = onnx.ModelProto()
    half.CopyFrom(onnx.shape_inference.infer_shapes(model))
    _HalfConversion(half, set(fp32_islands(model))).run()
    del half.graph.value_info[:]
    return half


class _HalfConversion:
    """Assigns a type to each node and inserts casts between nodes of different types."""

    def __init__(self, model: onnx.ModelProto, islands: set[str]) -> None:
        self.graph = model.graph
        self.islands = islands
        values = (*self.graph.value_info, *self.graph.input, *self.graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.types |= {name: tensor.data_type for name, tensor in self.weights.items()}
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        """Rewrites the graph in place."""
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            self._convert(node, outputs)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.weights.values() if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _convert(self, node: onnx.NodeProto, outputs: set[str]) -> None:
        wanted = TensorProto.FLOAT
        if node.op_type not in FIXED_TYPE and node.name not in self.islands:
            wanted = TensorProto.FLOAT16
        for index, name in enumerate(node.input):
            if self.types.get(name) in FLOATS and index not in FP32_INPUTS.get(node.op_type, ()):
                node.input[index] = self._as(name, wanted)
        late_casts = []
        for index, name in enumerate(node.output):
            if self.types.get(name) != TensorProto.FLOAT or wanted == TensorProto.FLOAT:
                continue
            if name in outputs:
                node.output[index] = f"{name}.half"
                late_casts.append(_cast(f"{name}.half", name, TensorProto.FLOAT))
            else:
                self.types[name] = wanted
        self.nodes += [node, *late_casts]

    def _as(self, name: str, wanted: int) -> str:
        if self.types[name] == wanted:
            return name
        if (name, wanted) not in self.casts:
            converted = self.casts[name, wanted] = f"{name}.{TensorProto.DataType.Name(wanted)}"
            if name in self.weights:
                values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
                self.weights[converted] = numpy_helper.from_array(values, converted)
            else:
                self.nodes.append(_cast(name, converted, wanted))
            self.types[converted] = wanted
        return self.casts[name, wanted]


def _cast(source: str, target: str, type: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"cast_{target}", to=type)


def fp32_islands(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that ``to_half`` leaves in fp32."""
    after, before = _convolution_above(model), _convolution_below(model)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in REDUCTIONS
        or (node.op_type in ARITHMETIC and not (node.name in after and node.name in before))
    ]


def _convolution_above(model: onnx.ModelProto) -> set[str]:
    """Nodes that depend on a convolution's output."""
    tensors: set[str] = set()
    nodes = set()
    for node in model.graph.node:
        if tensors.intersection(node.input):
            nodes.add(node.name)
        if node.name in nodes or node.op_type in CONVOLUTIONS:
            tensors.update(node.output)
    return nodes


def _convolution_below(model: onnx.ModelProto) -> set[str]:
    """Nodes on whose output a convolution depends."""
    tensors: set[str] = set()
    nodes = set()
    for node in reversed(model.graph.node):
        if tensors.intersection(node.output):
            nodes.add(node.name)
        if node.name in nodes or node.op_type in CONVOLUTIONS:
            tensors.update(node.input)
    return nodes


def _lower_batch_norms(model: onnx.ModelProto) -> None:
    """Replaces batch norms without a preceding convolution (DenseNet's) by multiply-add."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        scale, shift, mean, variance = (
            numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:]
        )
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        middle, output = f"{node.output[0]}.scaled", node.output[0]
        factor_name, shift_name = f"{output}.factor", f"{output}.shift"
        model.graph.initializer.append(_per_channel(factor_name, factor))
        model.graph.initializer.append(_per_channel(shift_name, shift - mean * factor))
        nodes.append(helper.make_node("Mul", [node.input[0], factor_name], [middle], factor_name))
        nodes.append(helper.make_node("Add", [middle, shift_name], [output], shift_name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _per_channel(name: str, values: NDArray[np.float64]) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32).reshape(1, -1, 1, 1), name)
