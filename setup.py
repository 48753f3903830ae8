"""Maps the repository's top-level folders to the packages of ``fusematte``.

The folders keep short names (``engine``, ``training``, ...), which would collide in site-packages;
installed they are ``fusematte.engine``, ``fusematte.training`` and so on.  Everything else about
the project is in pyproject.toml.
"""

import os
import shutil
import subprocess
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import find_packages, setup
from setuptools.modified import newer_group

ROOTS = {
    "fusematte": "src/fusematte",
    "fusematte.engine": "engine",
    "fusematte.training": "training",
    "fusematte.export": "export",
    "fusematte.cpp_ext": "cpp_ext",
}
CUDA_ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


def packages() -> list[str]:
    """Every package below the mapped folders, by its import name."""
    names = []
    for name, folder in ROOTS.items():
        names.append(name)
        names += [f"{name}.{child}" for child in find_packages(folder)]
    return names


def kernels() -> Pybind11Extension:
    """The native kernels.  They choose their instruction set at run time: no -march here."""
    sources = ["cpp_ext/bindings.cpp", *sorted(map(str, Path("cpp_ext/csrc").glob("*.cpp")))]
    headers = [
        str(path) for path in Path("cpp_ext/csrc").iterdir() if path.suffix in (".h", ".inl")
    ]
    flags = ["/O2"] if os.name == "nt" else ["-O3", "-fno-trapping-math"]
    return Pybind11Extension(
        "fusematte.cpp_ext._C",
        sources,
        depends=headers,
        include_dirs=["cpp_ext"],
        extra_compile_args=flags,
        cxx_std=17,
    )


class BuildKernels(build_ext):
    """Builds the extension and, with FUSEMATTE_CUDA=1, the CUDA kernels beside it.

    Not unasked, even where there is an nvcc: it takes minutes for all architectures, and only a
    job on an NVIDIA GPU runs them.
    """

    def run(self) -> None:
        super().run()
        if os.environ.get("FUSEMATTE_CUDA") != "1":
            return
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise SystemExit("FUSEMATTE_CUDA=1, but there is no nvcc on the PATH")
        folder = Path(self.get_ext_fullpath("fusematte.cpp_ext._C")).parent
        self._compile_cuda(nvcc, folder / "kernels.fatbin")

    def _compile_cuda(self, nvcc: str, target: Path) -> None:
        """A driver-API module for every architecture, and PTX for the ones to come."""
        source = "cpp_ext/frame_path.cu"
        sources = [source, *(str(path) for path in Path("cpp_ext/csrc").glob("*.*"))]
        if target.exists() and not self.force and not newer_group(sources, str(target)):
            return
        targets = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in CUDA_ARCHITECTURES]
        newest = CUDA_ARCHITECTURES[-1]
        targets += [
            f"-gencode=arch=compute_{n},code=compute_{n}" for n in (CUDA_ARCHITECTURES[0], newest)
        ]
        command = [nvcc, "--fatbin", "-std=c++17", "-O3", "--threads=0", *targets]
        subprocess.run([*command, "-o", str(target), source], check=True)


setup(
    packages=packages(),
    package_dir=ROOTS,
    ext_modules=[kernels()],
    cmdclass={"build_ext": BuildKernels},
)
