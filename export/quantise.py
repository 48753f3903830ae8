"""Post-training quantisation to int8 with NNCF, on real frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusematte.engine.errors import ExportError
from fusematte.engine.frame import Map

if TYPE_CHECKING:
    import onnx
    import openvino


def quantise_openvino(
    model: openvino.Model, inputs: Sequence[dict[str, Map]], islands: Sequence[str]
) -> openvino.Model:
    """An int8 model for OpenVINO; weights per channel, activations by their full range on
    ``inputs``.

    Activations are symmetric around zero: TensorRT requires it, and OpenVINO is faster with it.
    Weights must be fp32: fp16 weights would not be quantised.

    islands: the ONNX nodes that stay in fp32, see ``graph.fp32_islands``.  They include the
        probabilities, which could leave 0..1 by rounding to int8.
    """
    known = {node.get_friendly_name() for node in model.get_ops()}
    results = (port.get_node().input_value(0).get_node() for port in model.outputs)
    last = {node.get_friendly_name() for node in results}  # OpenVINO has renamed them
    return _quantise(model, inputs, sorted(known.intersection(islands) | last))


def quantise_onnx(
    model: onnx.ModelProto, inputs: Sequence[dict[str, Map]], islands: Sequence[str]
) -> onnx.ModelProto:
    """The same as ONNX with QuantizeLinear and DequantizeLinear, for TensorRT."""
    quantised: onnx.ModelProto = _quantise(model, inputs, islands)
    return quantised


def _quantise(model: Any, inputs: Sequence[dict[str, Map]], islands: Sequence[str]) -> Any:  # noqa: ANN401
    nncf = _import_nncf()
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    ranges = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
    )
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(names=list(islands)),
        advanced_parameters=ranges,
    )


def _import_nncf() -> Any:  # noqa: ANN401
    try:
        import nncf
    except ImportError as error:
        raise ExportError("int8 needs NNCF", remedy="pip install 'fusematte[export]'") from error
    return nncf
