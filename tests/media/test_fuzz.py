"""What the fuzzer damages is whole at first; what is refused anyway would find nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.media.fuzz import documents


def test_documents_are_whole_before_they_are_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for target, path, _ in documents(tmp_path):
        target(path)
    assert not [text for text in caplog.messages if "damaged" in text]
