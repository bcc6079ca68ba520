"""The catalogue of models."""

from pathlib import Path

import pytest

from cli.models.catalogue import catalogue, too_large
from cli.models.locate import locate
from cli.models.pull import pull
from cli.models.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def test_the_catalogue_holds_together(store: Store) -> None:
    """Each entry has one source, and a name that a folder can have."""
    for name, each in catalogue().items():
        assert (each.wheel is None) != (each.folder is None)
        assert store.find(name) is None
        assert set(each.sampling) <= {"temperature", "top_p", "repetition_penalty"}
    assert pull("infermesh-tiny", store) == locate("infermesh-tiny", store).path


def test_a_model_that_does_not_fit_says_what_would() -> None:
    """The least memory, and the largest model that takes no more than there is."""
    (default, tiny) = (catalogue()[name] for name in ("smollm2-135m-instruct", "infermesh-tiny"))
    assert too_large(default, 2**33) is None
    text = too_large(default, tiny.least_memory_bytes)
    assert text is not None and "512 MiB" in text and "infermesh-tiny" in text
    assert "infermesh-tiny takes" not in (too_large(default, 1) or "")
