"""Where a model is that is named by a path or a name."""

import re
from pathlib import Path

import pytest

from cli.models.locate import UnknownModelError, locate
from cli.models.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def test_a_path_counts_before_a_name(store: Store, tmp_path: Path) -> None:
    """Names are of the catalogue or of what was pulled; what is neither is told how to get."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert locate(str(folder), store).path == folder
    with pytest.raises(UnknownModelError, match="no model"):
        locate(str(tmp_path), store)
    with pytest.raises(UnknownModelError, match="infermesh pull smollm2"):
        locate("smollm2-135m-instruct", store)
    with pytest.raises(UnknownModelError, match="infermesh pull org/name"):
        locate("org/name", store)
    with pytest.raises(UnknownModelError, match="neither a path nor"):
        locate("nothing", store)
    for name in ("a/b/c", "../x", "a--b/c", "org/name:my.bin", "n" * 300, "a b"):
        with pytest.raises(UnknownModelError, match=re.escape(name)):
            locate(name, store)
