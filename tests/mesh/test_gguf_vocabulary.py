"""Ends of a sequence by a GGUF file's entries and names, against llama.cpp's (`record.py`)."""

import pytest

from mesh.gguf import GGUFError
from mesh.gguf_vocabulary import CONTROL, GGUFVocabulary, end_token_ids
from tests.tokenizer.gguf.expected import expected_ends
from tests.tokenizer.gguf.families import FAMILIES, Family


@pytest.mark.parametrize("name", FAMILIES)
def test_ends_are_those_of_llama_cpp(name: str) -> None:
    """For each family of models: the file's own, and control tokens by their names."""
    family = FAMILIES[name]
    assert family.names(end_token_ids(family.metadata())) == expected_ends()[name]


def test_the_files_own_end_is_first() -> None:
    """It is the one that stands for the end of a text."""
    metadata = FAMILIES["phi-3"].metadata()
    assert end_token_ids(metadata)[0] == metadata["tokenizer.ggml.eos_token_id"]


def test_text_that_looks_like_an_end_is_none() -> None:
    """Gemma has HTML among its tokens, of which `</s>` strikes text through."""
    family = Family("<eos> <end_of_turn>", {"eos": "<eos>"}, texts="[EOS]", defined="</s>")
    assert family.names(end_token_ids(family.metadata())) == ["<end_of_turn>", "<eos>"]


def test_an_end_that_is_not_marked_is_a_control_token() -> None:
    """By a name that no text spells by chance."""
    vocabulary = GGUFVocabulary(FAMILIES["chatml-unmarked"].metadata())
    assert vocabulary.types[vocabulary.ids["<|im_end|>"]] == CONTROL
    assert vocabulary.types[vocabulary.ids["<|im_start|>"]] != CONTROL


def test_a_file_without_a_vocabulary_has_no_ends() -> None:
    """Nobody can name a token then."""
    assert end_token_ids({"general.architecture": "llama"}) == ()


@pytest.mark.parametrize("kind", ["eos", "eot", "eom"])
@pytest.mark.parametrize("token_id", [-1, 1 << 32, True, "2", 2.0, [2]])
def test_an_end_that_is_no_token_is_refused(kind: str, token_id: object) -> None:
    """Out of the vocabulary, or no whole number: by the name of its entry."""
    metadata = FAMILIES["mistral"].metadata() | {f"tokenizer.ggml.{kind}_token_id": token_id}
    with pytest.raises(GGUFError, match=rf"tokenizer\.ggml\.{kind}_token_id is not a token"):
        end_token_ids(metadata)


def test_the_last_token_is_one() -> None:
    """The one after it is not; an end that the file names twice is returned once."""
    metadata = {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.eot_token_id": 1}
    assert end_token_ids(metadata | {"tokenizer.ggml.eos_token_id": 1}) == (1,)
    with pytest.raises(GGUFError, match="is not a token: 2"):
        end_token_ids(metadata | {"tokenizer.ggml.eos_token_id": 2})


@pytest.mark.parametrize(
    ("entry", "value"),
    [("tokens", []), ("tokens", "ab"), ("tokens", [1]), ("token_type", [1]), ("token_type", "11")],
)
def test_a_vocabulary_of_another_kind_is_refused(entry: str, value: object) -> None:
    """Which has no texts, or not a type for each."""
    metadata = {"tokenizer.ggml.tokens": ["a", "b"], f"tokenizer.ggml.{entry}": value}
    with pytest.raises(GGUFError, match=rf"tokenizer\.ggml\.{entry} must be a list"):
        end_token_ids(metadata)
