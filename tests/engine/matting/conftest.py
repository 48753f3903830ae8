"""A Matter whose network a test can replace, compiled once for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.peers import HookedMatter


@pytest.fixture(scope="module")
def shared_matter() -> Iterator[HookedMatter]:
    with HookedMatter() as made:
        yield made


@pytest.fixture
def matter(shared_matter: HookedMatter) -> HookedMatter:
    shared_matter.reset()
    shared_matter.hook = None
    shared_matter.scale = 1.0
    shared_matter.choose(())
    return shared_matter
