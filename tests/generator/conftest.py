"""One tiny checkpoint for all tests of this folder."""

from pathlib import Path

import pytest

from tests.generator.tiny import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama in Hugging Face's layout."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny-llama"))
