"""Maps the repository's top-level folders to the packages of ``fusematte``.

The folders keep short names (``engine``, ``training``, ...), which would collide in site-packages;
installed they are ``fusematte.engine``, ``fusematte.training`` and so on.  Everything else about
the project is in pyproject.toml.
"""

import os
import shutil
import subprocess
import sys
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
WITH_CUDA = os.environ.get("FUSEMATTE_CUDA") == "1"
COMPILER = ["nvidia-cuda-nvcc>=13,<14", "nvidia-cuda-runtime>=13,<14"]
"""NVIDIA's compiler as a package, for machines without the CUDA toolkit."""


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
    # Python's own flags say that integers wrap around, which keeps loops from being vectorised.
    flags = ["/O2"] if os.name == "nt" else ["-O3", "-fno-trapping-math", "-fno-wrapv"]
    return Pybind11Extension(
        "fusematte.cpp_ext._C",
        sources,
        depends=headers,
        include_dirs=["cpp_ext"],
        extra_compile_args=flags,
        cxx_std=17,
    )


def find_nvcc() -> str | None:
    """The toolkit's nvcc on the PATH, else the one of NVIDIA's package."""
    folders = [str(Path(entry, "nvidia", "cu13", "bin")) for entry in sys.path]
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(folders))


class BuildKernels(build_ext):
    """Builds the extension and, with FUSEMATTE_CUDA=1, the CUDA kernels beside it.

    Not unasked, even where there is an nvcc: only a job on an NVIDIA GPU runs them.
    """

    def run(self) -> None:
        super().run()
        if not WITH_CUDA:
            return
        nvcc = find_nvcc()
        if nvcc is None:
            raise SystemExit(f"FUSEMATTE_CUDA=1, but there is no nvcc: pip install {COMPILER[0]}")
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
    setup_requires=COMPILER if WITH_CUDA and find_nvcc() is None else [],
)
