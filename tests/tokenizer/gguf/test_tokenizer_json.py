"""GGUF vocabularies against llama.cpp's ids, which `record.py` wrote down."""

import functools
import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from mesh.gguf import GGUFFile
from services.tokenizer.chat import Message
from services.tokenizer.chat_encoder import ChatEncoder
from services.tokenizer.checkpoint import CheckpointError
from services.tokenizer.codec import Codec
from services.tokenizer.gguf.checkpoint import read_checkpoint
from services.tokenizer.gguf.pre_tokenizers import PRE_TOKENIZERS
from services.tokenizer.gguf.tokenizer_json import tokenizer_json
from tests.tokenizer.gguf.expected import digest, expected
from tests.tokenizer.gguf.odd_strings import odd_strings
from tests.tokenizer.gguf.vocabularies import (
    CONTEXT_LENGTH,
    chat_model,
    sentence_piece_vocabulary,
    write_vocabulary,
)

NEEDS_MODEL = pytest.mark.skipif(
    chat_model() is None,
    reason="the chat model is not here: infermesh pull smollm2-135m-instruct",
)


@functools.cache
def default_metadata() -> dict[str, Any]:
    model = chat_model()
    assert model is not None
    return dict(GGUFFile.read(model).metadata)


def ids(metadata: dict[str, Any]) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(tokenizer_json(metadata))
    encodings = tokenizer.encode_batch_fast(odd_strings(), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


@NEEDS_MODEL
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_byte_level_ids_are_those_of_llama_cpp(name: str) -> None:
    """For each pre-tokenizer on the chat model's vocabulary, in 2,000 odd strings."""
    metadata = default_metadata() | {"tokenizer.ggml.pre": name}
    assert digest(ids(metadata)) == expected()[name]


@pytest.mark.parametrize("adds_blank", [True, False])
def test_sentence_piece_ids_are_those_of_llama_cpp(adds_blank: bool) -> None:
    """With and without a blank before the text, in 2,000 odd strings."""
    name = "sentence-piece" if adds_blank else "sentence-piece-without-blank"
    assert digest(ids(sentence_piece_vocabulary(adds_blank))) == expected()[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "bert is not one of: gpt2, llama"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "new"}, "new is not one of"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}, "merges: is missing"),
        ({"tokenizer.ggml.tokens": []}, "there are none"),
        ({"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.token_type": [1, 1]}, "not as many"),
        ({"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1]}, "twice"),
    ],
)
def test_what_cannot_be_read_is_named(change: dict[str, Any], message: str) -> None:
    """A kind of vocabulary or a pre-tokenizer of another name is never guessed."""
    with pytest.raises(CheckpointError, match=message):
        tokenizer_json(sentence_piece_vocabulary(True) | change)


def test_a_missing_pre_tokenizer_is_the_default(caplog: pytest.LogCaptureFixture) -> None:
    """As llama.cpp takes it, and said in the log."""
    metadata = sentence_piece_vocabulary(True) | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.merges": ["t h"],
    }
    with caplog.at_level(logging.WARNING):
        text = tokenizer_json(metadata)
    assert "default" in caplog.text
    assert text == tokenizer_json(metadata | {"tokenizer.ggml.pre": "default"})


@pytest.mark.parametrize("adds_blank", [True, False])
def test_a_file_is_a_checkpoint(adds_blank: bool, tmp_path: Path) -> None:
    """Its name, context, ends, special tokens and template; texts come back as they went in."""
    template = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}"
    metadata = sentence_piece_vocabulary(adds_blank) | {"tokenizer.chat_template": template}
    path = write_vocabulary(tmp_path / "small.gguf", metadata)

    checkpoint = read_checkpoint(str(path))
    codec = Codec(checkpoint)

    assert (checkpoint.id, checkpoint.context_length) == ("small", CONTEXT_LENGTH)
    assert checkpoint.eos_token_ids == (2,)
    assert checkpoint.special_tokens["bos_token"] == "<s>"
    assert read_checkpoint(str(tmp_path)).revision == checkpoint.revision
    text = "the people of 中国, naïve 😀"
    (encoded,) = codec.encode([text], add_special_tokens=True)
    assert encoded[0] == 1
    assert codec.decode([encoded], skip_special_tokens=True) == [text]
    rendered = ChatEncoder(checkpoint).encode(
        [Message("user", "</s> and")], add_generation_prompt=True
    )
    assert rendered.ids.count(2) == 1


@NEEDS_MODEL
def test_the_chat_model_chats() -> None:
    """Its template's control tokens are tokens, and end a turn."""
    model = chat_model()
    assert model is not None
    checkpoint = read_checkpoint(str(model))
    assert checkpoint.context_length == 8192
    assert checkpoint.eos_token_ids == (2, 0)
    encoded = ChatEncoder(checkpoint).encode(
        [Message("user", "Hello!")], add_generation_prompt=True
    )
    assert encoded.ids[:1] == [1] and encoded.ids.count(2) == 2
