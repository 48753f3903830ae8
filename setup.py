"""Maps the repository's top-level folders to the packages of ``fusematte``.

The folders keep short names (``engine``, ``training``, ...), which would collide in site-packages;
installed they are ``fusematte.engine``, ``fusematte.training`` and so on.  Everything else about
the project is in pyproject.toml.
"""

from setuptools import find_packages, setup

ROOTS = {
    "fusematte": "src/fusematte",
    "fusematte.engine": "engine",
    "fusematte.training": "training",
    "fusematte.export": "export",
}


def packages() -> list[str]:
    """Every package below the mapped folders, by its import name."""
    names = []
    for name, folder in ROOTS.items():
        names.append(name)
        names += [f"{name}.{child}" for child in find_packages(folder)]
    return names


setup(packages=packages(), package_dir=ROOTS)
