"""Post-training quantisation to int8 with NNCF, on real frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fusematte.engine.backends import Map
from fusematte.engine.errors import ExportError

if TYPE_CHECKING:
    import onnx
    import openvino


def quantise_openvino(model: openvino.Model, inputs: Sequence[dict[str, Map]]) -> openvino.Model:
    """An int8 model for OpenVINO; weights per channel, activations by their range on ``inputs``.

    Activations are symmetric around zero: TensorRT knows no others, and OpenVINO is faster so.
    """
    return _quantise(model, inputs)


def quantise_onnx(model: onnx.ModelProto, inputs: Sequence[dict[str, Map]]) -> onnx.ModelProto:
    """The same as ONNX with QuantizeLinear and DequantizeLinear, for TensorRT."""
    quantised: onnx.ModelProto = _quantise(model, inputs)
    return quantised


def _quantise(model: Any, inputs: Sequence[dict[str, Map]]) -> Any:  # noqa: ANN401
    nncf = _import_nncf()
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        preset=nncf.QuantizationPreset.PERFORMANCE,
    )


def _import_nncf() -> Any:  # noqa: ANN401
    try:
        import nncf
    except ImportError as error:
        raise ExportError("int8 needs NNCF: pip install 'fusematte[export]'") from error
    return nncf
