"""One process per data folder."""

from pathlib import Path

import pytest

from services.retriever.folder import DataFolder, WriterError


def test_a_folder_is_held_until_closed(tmp_path: Path) -> None:
    """A second holder is refused in words, and let in afterwards."""
    first = DataFolder(tmp_path / "new" / "data")
    with pytest.raises(WriterError, match=r"one writer.*INFERMESH_RETRIEVER_DATA"):
        DataFolder(tmp_path / "new" / "data")
    first.close()
    first.close()
    DataFolder(tmp_path / "new" / "data").close()


def test_a_folder_keeps_its_name(tmp_path: Path) -> None:
    """The id is the folder's, not the process's."""
    first, other = DataFolder(tmp_path / "a"), DataFolder(tmp_path / "b")
    first.close()
    again = DataFolder(tmp_path / "a")
    assert again.store_id == first.store_id != other.store_id
    again.close()
    other.close()
