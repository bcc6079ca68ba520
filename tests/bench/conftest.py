"""A checkpoint of a few kilobytes."""

from pathlib import Path

import pytest

from bench.common.checkpoints import TINY, write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random two-layer Llama in Hugging Face's layout."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), TINY)
