"""Runs the tests marked ``gpu`` on an emulated CUDA driver.

    python -m tests.emulator [PYTEST'S ARGUMENTS]

PyCUDA and the CUDA kernels must be installed, see ``make gpu-emulated``.
"""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "emulator"
NOT_SUPPORTED = 801
"""CUDA_ERROR_NOT_SUPPORTED: what the driver says to calls that nobody here makes."""


def build_driver() -> None:
    """Compiles libcuda.so.1; also as what PyCUDA is linked with before it is there."""
    BUILD.mkdir(parents=True, exist_ok=True)
    stubs = BUILD / "stubs.cpp"
    stubs.write_text(
        "".join(
            f'extern "C" __attribute__((weak)) int {name}() {{ return {NOT_SUPPORTED}; }}\n'
            for name in sorted(names_wanted())
        ),
        "utf-8",
    )
    sources = [HERE / "driver.cpp", HERE / "kernels.cpp", stubs]
    library = BUILD / "libcuda.so.1"
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread"]
    options += [f"-I{ROOT / 'cpp_ext'}", f"-Wl,-soname,{library.name}"]
    subprocess.run(["g++", *options, "-o", library, *sources], check=True)
    for name in ("libcuda.so", "libcurand.so"):
        link = BUILD / name
        link.unlink(missing_ok=True)
        link.symlink_to(library.name)


def names_wanted() -> set[str]:
    """What PyCUDA and libav ask the driver's library for, as far as they are installed."""
    modules = [path for folder in site_packages() for path in folder.glob("pycuda/_driver*.so")]
    listed = (
        subprocess.run(
            ["nm", "-D", "--undefined-only", module], check=True, capture_output=True, text=True
        ).stdout
        for module in modules
    )
    names = {line.split()[-1] for text in listed for line in text.splitlines()}
    libraries = [path for folder in site_packages() for path in folder.glob("av.libs/libavutil*")]
    for library in libraries:  # which looks its names up when it runs
        names |= {
            name.decode() for name in re.findall(rb"\0(cu[A-Z]\w+)(?=\0)", library.read_bytes())
        }
    return {name for name in names if name.startswith("cu")}


def site_packages() -> list[Path]:
    """Where packages are installed."""
    return [Path(folder) for folder in site.getsitepackages()]


def main() -> None:
    """Builds the driver, and becomes pytest with it in the place of NVIDIA's."""
    build_driver()
    if sys.argv[1:] == ["--build-only"]:
        return
    os.environ["LD_LIBRARY_PATH"] = f"{BUILD}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    arguments = ["-m", "gpu", "-p", "tests.emulator.engines", *sys.argv[1:]]
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])


if __name__ == "__main__":
    main()
