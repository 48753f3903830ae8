"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """The directory of real clips beside the checkout; the test is skipped where there is none."""
    path = Path(__file__).parents[2] / "shared" / "clips"
    if not path.is_dir():
        pytest.skip("no real clips here")
    return path
