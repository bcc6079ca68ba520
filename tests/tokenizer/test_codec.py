"""Whole texts to ids and back, against transformers on the same folder."""

from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from mesh.errors import MeshError
from services.tokenizer.checkpoint import Checkpoint, CheckpointError
from services.tokenizer.codec import Codec

from .conftest import MakeFolder

TEXTS = ["the quick brown fox", "", "Zürich 日本語 😀👩‍👩‍👧", "a</s>b\n\n  c"]


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"add_bos_token": False},
        {"add_bos_token": True, "add_eos_token": True},
    ],
)
@pytest.mark.parametrize("add", [False, True])
def test_ids_equal_those_of_transformers(
    make_folder: MakeFolder, flags: dict[str, Any], add: bool
) -> None:
    """tokenizer.json alone says which special tokens are added."""
    folder = make_folder(**flags, tokenizer_class="PreTrainedTokenizerFast")
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Codec(Checkpoint.read(str(folder)))
    expected = [theirs.encode(text, add_special_tokens=add) for text in TEXTS]
    assert ours.encode(TEXTS, add_special_tokens=add) == expected


def test_text_survives_both_ways(make_folder: MakeFolder, tokenizer: Tokenizer) -> None:
    """Decoding equals the library's, with and without special tokens."""
    codec = Codec(Checkpoint.read(str(make_folder(tokenizer))))
    ids = codec.encode(["the quick</s>"], add_special_tokens=False)
    assert codec.decode(ids, skip_special_tokens=True) == ["the quick"]
    assert codec.decode(ids, skip_special_tokens=False)[0].endswith("</s>")


def test_ids_beyond_the_model_are_refused_and_unused_ones_are_empty(
    make_folder: MakeFolder,
) -> None:
    """The model's vocabulary, padded beyond the tokenizer's, is the limit."""
    codec = Codec(Checkpoint.read(str(make_folder())))
    (ids,) = codec.encode(["fox"], add_special_tokens=False)
    assert codec.vocab_size == 1024
    assert codec.decode([[1023, *ids, 1023]], skip_special_tokens=True) == ["fox"]
    with pytest.raises(MeshError, match="1024") as caught:
        codec.decode([ids, [*ids, 1024]], skip_special_tokens=True)
    assert caught.value.field == f"sequences[1].ids[{len(ids)}]"


def test_truncation_and_padding_of_the_file_do_not_count(
    make_folder: MakeFolder, byte_level: Tokenizer
) -> None:
    """A tokenizer.json saved from training must not cut prompts."""
    limited = Tokenizer.from_str(byte_level.to_str())
    limited.enable_truncation(2)
    limited.enable_padding(length=9)
    codec = Codec(Checkpoint.read(str(make_folder(limited))))
    (ids,) = codec.encode(["the quick brown fox"], add_special_tokens=False)
    assert codec.decode([ids], skip_special_tokens=False) == ["the quick brown fox"]


def test_the_tokenizers_own_end_token_counts(make_folder: MakeFolder) -> None:
    """Fine-tunes that change the end token only there must still end."""
    codec = Codec(Checkpoint.read(str(make_folder(eos_token="<s>"))))
    assert codec.eos_token_ids == (2, 1)


def test_unusable_vocabularies_are_refused(make_folder: MakeFolder) -> None:
    """A broken file is an error at the start."""
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used"):
        Codec(Checkpoint.read(str(make_folder(files={"tokenizer.json": "{}"}))))
