"""Vocabularies that are compared with llama.cpp, by the names under which the record has them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from mesh.gguf import GGUFFile
from services.tokenizer.gguf.pre_tokenizers import PRE_TOKENIZERS
from services.tokenizer.gguf.tokenizer_json import tokenizer_json
from services.tokenizer.gguf.vocabulary import Vocabulary
from tests.tokenizer.gguf.odd_strings import few_letter_strings, odd_strings
from tests.tokenizer.gguf.sentence_piece_vocabularies import (
    random_vocabulary,
    sentence_piece_vocabulary,
)
from tests.tokenizer.gguf.vocabularies import byte_level_vocabulary, chat_model

CHAT_MODEL = "SmolLM2"


class Case(NamedTuple):
    """The metadata of a vocabulary, and the strings that are compared."""

    metadata: Callable[[], dict[str, Any]]
    strings: Callable[[], list[str]] = odd_strings


def chat_model_metadata() -> dict[str, Any]:
    """Return the vocabulary of the chat model; it must be here."""
    model = chat_model()
    assert model is not None, "infermesh pull smollm2-135m-instruct"
    return {
        name: value
        for name, value in GGUFFile.read(model).metadata.items()
        if name.startswith("tokenizer.ggml") or name == "general.architecture"
    }


SENTENCE_PIECE: Mapping[str, Case] = {
    "sentence-piece": Case(partial(sentence_piece_vocabulary, adds_blank=True)),
    "sentence-piece-without-blank": Case(partial(sentence_piece_vocabulary, adds_blank=False)),
    **{
        f"random-{architecture}-{seed}": Case(
            partial(random_vocabulary, seed, bool(seed % 2), architecture), few_letter_strings
        )
        for architecture in ("llama", "gemma2")
        for seed in range(4)
    },
}
CASES: Mapping[str, Case] = {
    **{name: Case(partial(byte_level_vocabulary, name)) for name in PRE_TOKENIZERS},
    CHAT_MODEL: Case(chat_model_metadata),
    **SENTENCE_PIECE,
}


def our_ids(metadata: Mapping[str, Any], strings: list[str]) -> list[list[int]]:
    """Return the ids of strings by our tokenizer, without those of begin and end."""
    tokenizer = Tokenizer.from_str(tokenizer_json(Vocabulary(metadata)))
    encodings = tokenizer.encode_batch_fast(strings, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]
