"""The kernels of this processor and, in an emulator, NEON's against the portable ones, in C++.

Debian: g++-aarch64-linux-gnu and qemu-user.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=c++17", "-fno-trapping-math", "-pthread", f"-I{ROOT / 'cpp_ext'}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "emulator", "linking"),
    [("g++", [], []), ("aarch64-linux-gnu-g++", ["qemu-aarch64"], ["-static"])],
    ids=["here", "neon"],
)
def test_every_instruction_set_agrees_with_the_portable_kernels(
    compiler: str, emulator: list[str], linking: list[str], tmp_path: Path
) -> None:
    for tool in (compiler, *emulator):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here")
    program = tmp_path / "parity"
    sources = dict.fromkeys(sorted((ROOT / "cpp_ext" / "csrc").glob("*.cpp")), "-O3")
    # -O3 of the comparison itself crashes GCC 12 for Arm.
    sources[Path(__file__).with_name("neon_parity.cpp")] = "-O1"
    objects = []
    for source, optimised in sources.items():
        objects.append(tmp_path / f"{source.stem}.o")
        command = [compiler, *FLAGS, optimised, "-c", str(source), "-o", str(objects[-1])]
        subprocess.run(command, check=True)
    command = [compiler, *linking, "-pthread", *map(str, objects), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([*emulator, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert not emulator or "neon: compared" in done.stdout
