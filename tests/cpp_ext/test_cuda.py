"""The launcher for NVIDIA GPUs, where it cannot run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fusematte.cpp_ext import cuda


def test_without_built_kernels_it_says_how_to_build_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "fatbin", lambda: None)
    with pytest.raises(RuntimeError, match="FUSEMATTE_CUDA=1"):
        cuda.Gpu()


def test_without_pycuda_it_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "fatbin", lambda: tmp_path / "kernels.fatbin")
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(ImportError, match=r"fusematte\[cuda\]"):
        cuda.Gpu()
