"""Maps the repository's top-level folders to the packages of ``fusematte``.

The folders keep short names (``engine``, ``training``, ...), which would collide in site-packages;
installed they are ``fusematte.engine``, ``fusematte.training`` and so on.  Everything else about
the project is in pyproject.toml.
"""

import os
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import find_packages, setup

ROOTS = {
    "fusematte": "src/fusematte",
    "fusematte.engine": "engine",
    "fusematte.training": "training",
    "fusematte.export": "export",
    "fusematte.cpp_ext": "cpp_ext",
}


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


setup(packages=packages(), package_dir=ROOTS, ext_modules=[kernels()])
