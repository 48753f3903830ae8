"""The guided filter in colour as a TensorRT layer (IPluginV3), which runs ``cpp_ext``'s kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fusematte.cpp_ext import cuda
from fusematte.engine.cuda.driver import device_of


class PluginName(NamedTuple):
    """The identity of the plugin's creator within an engine."""

    name: str
    version: str
    namespace: str


PLUGIN = PluginName("FuseMatteGuidedFilter", "2", "fusematte")


def register_plugin(library: Any) -> None:  # noqa: ANN401
    """Registers the plugin with a TensorRT flavour, once per process.

    Shape:
        inputs: guide [N, 3, h, w], alpha [N, 1, h, w]; output: alpha [N, 1, h, w]; float32.
    """
    registry = library.get_plugin_registry()
    known = registry.get_creator(*PLUGIN)
    if known is None:
        registry.register_creator(_creator(library), PLUGIN.namespace)


def _creator(library: Any) -> Any:  # noqa: ANN401
    """An instance of the creator, whose class derives from the flavour's interface."""
    plugin = plugin_class(library)
    field = library.PluginField
    kinds = library.PluginFieldType

    class Creator(library.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = PLUGIN
            self.field_names = library.PluginFieldCollection(
                [
                    field("radius", np.array([], np.int32), kinds.INT32),
                    field("epsilon", np.array([], np.float32), kinds.FLOAT32),
                    field("certain", np.array([], np.float32), kinds.FLOAT32),
                ]
            )

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:  # noqa: ANN401, ARG002
            values = {entry.name: entry.data for entry in fields}
            epsilon, certain = (float(values[key][0]) for key in ("epsilon", "certain"))
            return plugin(int(values["radius"][0]), epsilon, certain)

    return Creator()


def plugin_class(library: Any) -> Any:  # noqa: ANN401
    """The plugin class for this flavour's interfaces."""
    bases = (
        library.IPluginV3,
        library.IPluginV3OneCore,
        library.IPluginV3OneBuild,
        library.IPluginV3OneRuntime,
    )
    return type("GuidedFilter", (_GuidedFilter, *bases), {"library": library, "bases": bases})


class _GuidedFilter:
    """The plugin's implementation, common to all flavours."""

    library: Any
    bases: tuple[Any, ...]

    def __init__(self, radius: int, epsilon: float, certain: float) -> None:
        for base in self.bases:
            base.__init__(self)
        self.radius, self.epsilon, self.certain = radius, epsilon, certain
        self.name, self.plugin_version, self.plugin_namespace = PLUGIN
        self.plugin_name = PLUGIN.name
        self.num_outputs = 1

    def get_capability_interface(self, kind: Any) -> Any:  # noqa: ANN401, ARG002
        return self

    def clone(self) -> Any:  # noqa: ANN401
        return type(self)(self.radius, self.epsilon, self.certain)

    def get_output_data_types(self, types: Any) -> Any:  # noqa: ANN401
        return [types[1]]

    def get_output_shapes(self, inputs: Any, shapes: Any, builder: Any) -> Any:  # noqa: ANN401, ARG002
        return [self.library.DimsExprs(inputs[1])]

    def supports_format_combination(self, index: int, described: Any, inputs: int) -> bool:  # noqa: ANN401, ARG002
        tensor = described[index].desc
        return bool(
            tensor.type == self.library.DataType.FLOAT
            and tensor.format == self.library.TensorFormat.LINEAR
        )

    def configure_plugin(self, inputs: Any, outputs: Any) -> None:  # noqa: ANN401
        pass

    def on_shape_change(self, inputs: Any, outputs: Any) -> None:  # noqa: ANN401
        pass

    def attach_to_context(self, context: Any) -> Any:  # noqa: ANN401, ARG002
        return self.clone()

    def get_fields_to_serialize(self) -> Any:  # noqa: ANN401
        kinds, field = self.library.PluginFieldType, self.library.PluginField
        reals = {"epsilon": self.epsilon, "certain": self.certain}
        return self.library.PluginFieldCollection(
            [field("radius", np.array([self.radius], np.int32), kinds.INT32)]
            + [
                field(name, np.array([value], np.float32), kinds.FLOAT32)
                for name, value in reals.items()
            ]
        )

    def get_workspace_size(self, inputs: Any, outputs: Any) -> int:  # noqa: ANN401, ARG002
        return 0

    def enqueue(self, described: Any, _: Any, *addresses: Any) -> None:  # noqa: ANN401
        inputs, outputs, _workspace, stream = addresses
        device = device_of(int(stream))
        device.begin_frame()
        settings = self.radius, self.certain, self.epsilon
        run_plugin(device, settings, described[1].dims, inputs, outputs[0])


def run_plugin(
    device: cuda.Device,
    settings: tuple[int, float, float],
    shape: Sequence[int],
    inputs: Sequence[int],
    result: int,
) -> None:
    """Launches the kernels for each picture of a batch; addresses are device addresses.

    settings: radius, certain, epsilon; shape: of the alpha.
    """
    guide, alpha = inputs
    batch, _, height, width = shape
    area = 4 * height * width
    for index in range(batch):
        planes = guide + index * 3 * area, alpha + index * area, result + index * area
        cuda.guided_alpha(device, cuda.GuidedAlphaJob(height, width, *settings, *planes))
