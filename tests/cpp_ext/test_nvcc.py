"""The CUDA kernels through NVIDIA's compiler, where it is: what they cost on a device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_REGISTERS = 96
"""Of a thread: with 65536 a multiprocessor runs 680 threads at once, five blocks of ours."""


def find_nvcc() -> str | None:
    """The toolkit's on the PATH, or the one of NVIDIA's package."""
    folders = [str(Path(entry, "nvidia", "cu13", "bin")) for entry in sys.path]
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(folders))


@pytest.mark.parametrize("architecture", [75, 89, 120])
def test_kernels_stay_in_registers(architecture: int, tmp_path: Path) -> None:
    """None spills, none keeps an array in local memory, and the launcher knows them all."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("there is no nvcc here")
    command = [nvcc, "--cubin", f"-arch=sm_{architecture}", "-std=c++17", "-O3"]
    command += ["--resource-usage", "-o", str(tmp_path / "kernels.cubin")]
    source = str(ROOT / "cpp_ext" / "frame_path.cu")
    told = subprocess.run([*command, source], check=True, capture_output=True, text=True).stderr
    known = re.findall(r"KERNEL\((\w+)\)", (ROOT / "tests/emulator/kernels.cpp").read_text("utf-8"))
    reports = re.split(r"Compiling entry function ", told)[1:]
    assert {report.split("'")[1] for report in reports} == set(known) - {"name"}
    for report in reports:
        memory = re.search(r"(\d+) bytes stack.* (\d+) bytes spill stores", report)
        registers = re.search(r"Used (\d+) registers", report)
        assert memory is not None and registers is not None, report
        assert memory.groups() == ("0", "0"), report
        assert int(registers[1]) <= MOST_REGISTERS, report
