"""Which files of a repository make a model."""

from pathlib import Path

import pytest

from cli.models.errors import PullError
from cli.models.hub_files import HubFile, choose_files
from cli.models.reference import Reference
from tests.cli.models.hub_server import blob_id

SIZES = {"README.md": 1, "a.Q4_0.gguf": 4_000_000, "a.Q8_0.gguf": 8_000_000}
SPLIT = {f"b-0000{k}-of-00002.gguf": 1_000_000 for k in (1, 2)}


def test_several_models_are_listed_to_choose_from() -> None:
    """By what one would write, with their sizes; the files of a split model are one."""
    with pytest.raises(PullError) as caught:
        choose_files({**SIZES, **SPLIT}, Reference("o/n", None))
    assert str(caught.value).splitlines()[1:] == [
        "  o/n:a.Q4_0.gguf  4 MB",
        "  o/n:a.Q8_0.gguf  8 MB",
        "  o/n:b-00001-of-00002.gguf  2 MB",
    ]


def test_the_files_of_a_model_are_chosen() -> None:
    """One file, all files of a split model, or a checkpoint's."""
    assert choose_files(SIZES, Reference("o/n", "a.Q8_0.gguf")) == ["a.Q8_0.gguf"]
    assert choose_files(SPLIT, Reference("o/n", None)) == [*SPLIT]
    assert choose_files(SPLIT, Reference("o/n", [*SPLIT][1])) == [*SPLIT]
    folder = dict.fromkeys(("config.json", "x.safetensors", "y.bin", "tokenizer.json"), 1)
    assert choose_files(folder, Reference("o/n", None)) == [
        *("config.json", "tokenizer.json", "x.safetensors"),
    ]
    with pytest.raises(PullError, match="neither GGUF"):
        choose_files({"y.bin": 1}, Reference("o/n", None))


def test_weights_that_a_repository_has_twice_are_taken_once() -> None:
    """Those under the names that Hugging Face's library reads."""
    files = ("config.json", "consolidated.safetensors", "model-00001-of-00001.safetensors")
    chosen = choose_files(dict.fromkeys(files, 1), Reference("o/n", None))
    assert chosen == ["config.json", "model-00001-of-00001.safetensors"]


def test_a_split_model_that_lacks_a_file_is_refused() -> None:
    """Before anything is fetched, with the file's name."""
    sizes = {"b-00001-of-00002.gguf": 1}
    with pytest.raises(PullError, match=r"b-00002-of-00002\.gguf is missing"):
        choose_files(sizes, Reference("o/n", "b-00001-of-00002.gguf"))


def test_a_file_is_known_by_gits_blob_id(tmp_path: Path) -> None:
    """Which is how the hub names those that are not in LFS; its size alone is not enough."""
    data = b'{"a": 1}'
    (tmp_path / "config.json").write_bytes(data)
    file = HubFile("config.json", len(data), blob_id(data), is_lfs=False)
    assert file.is_at(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b'{"a": 2}')
    assert not file.is_at(tmp_path / "config.json")
