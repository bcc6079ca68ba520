"""What is read from a model folder, in the forms in which folders come."""

import json
from pathlib import Path

import pytest

from services.tokenizer.checkpoint import Checkpoint, CheckpointError

from .conftest import MakeFolder


def test_the_id_is_the_folder_unless_given(make_folder: MakeFolder) -> None:
    """Requests name the model by the setting or by the folder."""
    folder = make_folder()
    assert Checkpoint.read(str(folder)).id == "tiny-model"
    assert Checkpoint.read(str(folder), "other").id == "other"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_the_revision_follows_each_file(make_folder: MakeFolder, name: str) -> None:
    """A change of any file that shapes text or ids is another revision."""
    folder = make_folder(files={"chat_template.jinja": "{{ messages }}"})
    before = Checkpoint.read(str(folder)).revision
    assert Checkpoint.read(str(folder)).revision == before
    assert len(before) == 16
    (folder / name).write_text((folder / name).read_text() + " ")
    assert Checkpoint.read(str(folder)).revision != before


def test_special_tokens_are_texts_or_objects(make_folder: MakeFolder) -> None:
    """Both forms of tokenizer_config.json and the older file beside it are read."""
    folder = make_folder(
        bos_token={"content": "<s>", "lstrip": False},
        pad_token=None,
        files={"special_tokens_map.json": json.dumps({"mask_token": "<m>", "eos_token": "<old>"})},
    )
    expected = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<m>"}
    assert Checkpoint.read(str(folder)).special_tokens == expected


@pytest.mark.parametrize(
    ("inline", "files", "expected"),
    [
        (None, {}, None),
        ("inline", {}, "inline"),
        ("inline", {"chat_template.jinja": "file"}, "file"),
        ("inline", {"chat_template.json": '{"chat_template": "legacy"}'}, "legacy"),
        (
            [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
            {},
            "d",
        ),
        ([{"name": "tool_use", "template": "t"}], {}, None),
    ],
)
def test_templates_are_found_where_folders_keep_them(
    make_folder: MakeFolder, inline: object, files: dict[str, str], expected: str | None
) -> None:
    """A file wins over the inline template; of named ones the default is taken."""
    folder = make_folder(chat_template=inline, files=files)
    assert Checkpoint.read(str(folder)).chat_template == expected


def test_end_tokens_of_all_files_count(make_folder: MakeFolder) -> None:
    """config.json and generation_config.json may name one or several."""
    folder = make_folder(files={"generation_config.json": '{"eos_token_id": [5, 2]}'})
    assert Checkpoint.read(str(folder)).eos_token_ids == (2, 5)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": "{}"}, "max_position_embeddings"),
        ({"config.json": "{"}, "config.json is no JSON"),
        ({"tokenizer_config.json": "[]"}, "tokenizer_config.json holds no JSON object"),
    ],
)
def test_unusable_files_are_named(
    make_folder: MakeFolder, files: dict[str, str], message: str
) -> None:
    """The error says which file is at fault."""
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.read(str(make_folder(files=files)))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error holds the path that was looked at."""
    with pytest.raises(CheckpointError, match=r"nowhere/tokenizer\.json does not exist"):
        Checkpoint.read(str(tmp_path / "nowhere"))
