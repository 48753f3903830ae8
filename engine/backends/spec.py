"""The request for a backend: ``NAME[:DEVICE][:PRECISION]``."""

from __future__ import annotations

from typing import NamedTuple, Self

from fusematte.engine.errors import BackendError

PRECISIONS = "f32", "bf16", "f16", "int8"
"""Precisions, the most accurate first."""
DEVICES = "cpu", "gpu", "npu", "cuda", "tensorrt", "directml", "coreml"
"""The devices of all backends."""


class Spec(NamedTuple):
    """A request: a backend's name or ``auto``; None leaves device or precision open."""

    backend: str = "auto"
    device: str | None = None
    precision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses ``auto``, ``openvino``, ``openvino:gpu``, ``auto:int8``, ``openvino:cpu:f32``.

        Raises:
            BackendError: a part is neither a device nor a precision, or there are two of one kind.
        """
        name, *rest = text.split(":")
        parts: dict[str, str] = {}
        for part in rest:
            kind = "precision" if part in PRECISIONS else "device"
            if part not in (*DEVICES, *PRECISIONS) or kind in parts:
                raise BackendError(
                    f"backend {text!r} is not NAME[:DEVICE][:PRECISION]; devices are "
                    f"{', '.join(DEVICES)}, precisions {', '.join(PRECISIONS)}",
                    option="backend",
                )
            parts[kind] = part
        return cls(name, **parts)

    def __str__(self) -> str:
        return ":".join(part for part in self if part is not None)

    def allows(self, other: Spec) -> bool:
        """Whether ``other`` satisfies this request."""
        return (
            self.backend in ("auto", other.backend)
            and self.device in (None, other.device)
            and self.precision in (None, other.precision)
        )
