"""What jobs do with frames is tested with a network that sees a small copy of them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def small(small_network: None) -> None:
    """See ``small_network``."""
