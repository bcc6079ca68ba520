"""Vocabularies that are compared with llama.cpp, by the names under which the record has them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from mesh.gguf import GGUFFile
from services.tokenizer.gguf.pre_tokenizers import PRE_TOKENIZERS
from services.tokenizer.gguf.tokenizer_json import tokenizer_json
from tests.tokenizer.gguf.odd_strings import odd_strings
from tests.tokenizer.gguf.vocabularies import (
    byte_level_vocabulary,
    chat_model,
    sentence_piece_vocabulary,
)

Case = Callable[[], dict[str, Any]]
CHAT_MODEL = "SmolLM2"


def chat_model_metadata() -> dict[str, Any]:
    """Return the vocabulary of the chat model; it must be here."""
    model = chat_model()
    assert model is not None, "infermesh pull smollm2-135m-instruct"
    return {
        name: value
        for name, value in GGUFFile.read(model).metadata.items()
        if name.startswith("tokenizer.ggml") or name == "general.architecture"
    }


CASES: Mapping[str, Case] = {
    **{name: partial(byte_level_vocabulary, name) for name in PRE_TOKENIZERS},
    CHAT_MODEL: chat_model_metadata,
    "sentence-piece": partial(sentence_piece_vocabulary, adds_blank=True),
    "sentence-piece-without-blank": partial(sentence_piece_vocabulary, adds_blank=False),
}


def our_ids(metadata: Mapping[str, Any]) -> list[list[int]]:
    """Return the ids of the odd strings by our tokenizer."""
    tokenizer = Tokenizer.from_str(tokenizer_json(metadata))
    encodings = tokenizer.encode_batch_fast(odd_strings(), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]
