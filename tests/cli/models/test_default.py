"""The model that is served where nobody names one."""

from pathlib import Path

import pytest

from cli.models.catalogue import BUNDLED_MODEL, CHAT_MODEL, catalogue
from cli.models.default import default_model
from cli.models.store import Store

PLENTY = 2**40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One that holds the chat model."""
    (tmp_path / CHAT_MODEL).mkdir()
    (tmp_path / CHAT_MODEL / "model.gguf").write_bytes(b"GGUF")
    return Store(tmp_path)


def test_the_chat_model_where_it_is(store: Store) -> None:
    """Without a word."""
    default = default_model(store, PLENTY)
    assert default.location.path == store.folder / CHAT_MODEL
    assert default.notice is None


def test_else_the_bundled_one(tmp_path: Path) -> None:
    """With a line that says how to get the other."""
    default = default_model(Store(tmp_path / "none"), PLENTY)
    assert default.location.path.name == BUNDLED_MODEL
    assert default.notice is not None and "\n" not in default.notice
    assert f"infermesh pull {CHAT_MODEL}" in default.notice


def test_not_where_it_does_not_fit(store: Store) -> None:
    """The line says how much it takes."""
    default = default_model(store, catalogue()[CHAT_MODEL].least_memory_bytes - 1)
    assert default.location.path.name == BUNDLED_MODEL
    assert default.notice is not None and "512 MiB" in default.notice
