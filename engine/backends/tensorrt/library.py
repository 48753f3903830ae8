"""Loading of TensorRT in its two flavours: tensorrt (10 and 11) and tensorrt_rtx."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fusematte.engine.errors import BackendError

MODULES = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""The module names of each flavour's packages."""
REMEDIES = {
    "tensorrt": "pip install tensorrt",
    "tensorrt-rtx": "pip install 'fusematte[tensorrt-rtx]'",
}


def installed() -> list[str]:
    """The flavours whose packages are installed."""
    return [flavour for flavour, names in MODULES.items() if any(map(find_spec, names))]


def load_library(flavour: str) -> Any:  # noqa: ANN401
    """The module of a flavour.

    Raises:
        BackendError: it is not installed, or its libraries cannot be loaded.
    """
    for name in filter(find_spec, MODULES[flavour]):
        try:
            return import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            raise BackendError(
                f"{name} is installed but cannot be loaded: {error}",
                remedy=f"reinstall it with its libraries: {REMEDIES[flavour]}",
            ) from error
    raise BackendError(f"{flavour} is not installed: {REMEDIES[flavour]}")


def first_loadable() -> str:
    """The first flavour that can be loaded; it runs models that are not exported engines.

    Raises:
        BackendError: none is installed, or none can be loaded; the message lists the reasons.
    """
    reasons = []
    for flavour in installed():
        try:
            load_library(flavour)
        except BackendError as error:
            reasons.append(str(error))
        else:
            return flavour
    remedies = " or ".join(REMEDIES.values())
    raise BackendError("; ".join(reasons) or f"no TensorRT is installed: {remedies}")


def make_logger(library: Any) -> Any:  # noqa: ANN401
    """A TensorRT logger that records messages.

    ``lines``: all messages as (severity, text); ``errors()``: the error messages in one line.
    """

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.min_severity = library.ILogger.Severity.VERBOSE
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            self.lines.append((severity, message))

        def errors(self) -> str:
            kinds = library.ILogger.Severity
            bad = [t for s, t in self.lines if s in (kinds.INTERNAL_ERROR, kinds.ERROR)]
            return "; ".join(" ".join(text.split()) for text in bad) or "no reason given"

    return Logger()
