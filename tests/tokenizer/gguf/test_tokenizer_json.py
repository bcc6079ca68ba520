"""A GGUF file as the tokenizer's checkpoint: what it says, what is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mesh.gguf import GGUFError
from services.tokenizer.chat import Message
from services.tokenizer.chat_encoder import ChatEncoder
from services.tokenizer.checkpoint import CheckpointError
from services.tokenizer.codec import Codec
from services.tokenizer.gguf.checkpoint import read_checkpoint
from services.tokenizer.gguf.tokenizer_json import tokenizer_json
from services.tokenizer.gguf.vocabulary import Vocabulary
from tests.tokenizer.gguf.families import FAMILIES
from tests.tokenizer.gguf.sentence_piece_vocabularies import sentence_piece_vocabulary
from tests.tokenizer.gguf.vocabularies import CONTEXT_LENGTH, chat_model, write_vocabulary

NEEDS_MODEL = pytest.mark.skipif(
    chat_model() is None,
    reason="the chat model is not here: infermesh pull smollm2-135m-instruct",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, "tokenizer.ggml.model bert is not one of: gpt2, llama"),
        ({"model": None}, "tokenizer.ggml.model None is not one of"),
        ({"model": "gpt2", "pre": "new"}, "tokenizer.ggml.pre new is not one of"),
        ({"model": "gpt2", "pre": "gpt-2"}, "tokenizer.ggml.merges must be a list of texts"),
        ({"tokens": []}, "tokenizer.ggml.tokens must be a list of texts, and not empty"),
        ({"tokens": 7}, "tokenizer.ggml.tokens must be a list of texts, and not empty"),
        ({"tokens": ["a"], "token_type": [1, 1]}, "tokenizer.ggml.token_type must be a list of 1"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "tokenizer.ggml.tokens has 'a' twice"),
        ({"scores": [1.0]}, "tokenizer.ggml.scores must be"),
        ({"scores": "high"}, "tokenizer.ggml.scores must be"),
        ({"eos_token_id": 1 << 31}, "tokenizer.ggml.eos_token_id is not a token"),
        ({"model": "gpt2", "pre": "gpt-2", "merges": [], "bos_token_id": None},
         "tokenizer.ggml.add_bos_token is set, but there is no bos"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(change: dict[str, Any], message: str) -> None:
    """A kind of vocabulary or a pre-tokenizer of another name is never guessed."""
    changes = {f"tokenizer.ggml.{name}": value for name, value in change.items()}
    metadata = sentence_piece_vocabulary(True) | changes
    with pytest.raises(GGUFError, match=message):
        vocabulary = Vocabulary(metadata)
        vocabulary.end_token_ids()
        tokenizer_json(vocabulary)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The service does not start, and says which entry of which file is why."""
    metadata = FAMILIES["llama-3"].metadata() | {"tokenizer.ggml.pre": "new"}
    path = write_vocabulary(tmp_path / "model.gguf", metadata)
    with pytest.raises(CheckpointError, match=r"model\.gguf: tokenizer\.ggml\.pre new is not one"):
        read_checkpoint(str(path))


def test_empty_tokens_are_none() -> None:
    """Empty tokens fill a vocabulary up."""
    metadata = sentence_piece_vocabulary(True)
    tokens = [*metadata["tokenizer.ggml.tokens"], "", ""]
    count = len(tokens)
    metadata |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": [0.0] * count}
    metadata |= {"tokenizer.ggml.token_type": [1] * count}
    assert "" not in json.loads(tokenizer_json(Vocabulary(metadata)))["model"]["vocab"]


def test_a_missing_pre_tokenizer_is_the_default(caplog: pytest.LogCaptureFixture) -> None:
    """As llama.cpp takes it, and said in the log."""
    metadata = sentence_piece_vocabulary(True) | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.merges": ["t h"],
    }
    with caplog.at_level(logging.WARNING):
        text = tokenizer_json(Vocabulary(metadata))
    assert "default" in caplog.text
    named = metadata | {"tokenizer.ggml.pre": "default"}
    assert text == tokenizer_json(Vocabulary(named))


@pytest.mark.parametrize("adds_blank", [True, False])
def test_a_file_is_a_checkpoint(adds_blank: bool, tmp_path: Path) -> None:
    """Its name, context, ends, special tokens and template; texts come back as they went in."""
    template = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}"
    metadata = sentence_piece_vocabulary(adds_blank) | {
        "tokenizer.chat_template": template,
        "tokenizer.ggml.padding_token_id": (1 << 32) - 1,
    }
    path = write_vocabulary(tmp_path / "small.gguf", metadata)

    checkpoint = read_checkpoint(str(path))
    codec = Codec(checkpoint)

    assert (checkpoint.id, checkpoint.context_length) == ("small", CONTEXT_LENGTH)
    assert checkpoint.eos_token_ids == (2,)
    assert checkpoint.special_tokens["bos_token"] == "<s>"
    assert "pad_token" not in checkpoint.special_tokens
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
    # a repository's name ends the text before it, as in llama.cpp
    assert checkpoint.eos_token_ids == (2, 0, 4)
    encoded = ChatEncoder(checkpoint).encode(
        [Message("user", "Hello!")], add_generation_prompt=True
    )
    assert encoded.ids[:1] == [1] and encoded.ids.count(2) == 2


def test_phi_3s_tokens_take_blanks_along(tmp_path: Path) -> None:
    """By the model's name, as llama.cpp: the file has no place for it."""
    metadata = FAMILIES["phi-3"].metadata() | {"tokenizer.ggml.add_space_prefix": False}
    plain = Codec(read_checkpoint(str(write_vocabulary(tmp_path / "plain.gguf", metadata))))
    named = metadata | {"general.name": "Phi-3 Mini"}
    phi = Codec(read_checkpoint(str(write_vocabulary(tmp_path / "phi.gguf", named))))
    texts = ["<|user|>\n a<|end|>\n<|endoftext|>\na", "<|user|>a<|end|><|endoftext|>\na"]
    ids, stripped = phi.encode(texts, add_special_tokens=False)
    assert ids == stripped
    ids, stripped = plain.encode(texts, add_special_tokens=False)
    assert ids != stripped


def test_unmarked_control_tokens_are_control_tokens(tmp_path: Path) -> None:
    """Where the file has them as text: one token each, shown to nobody."""
    metadata = FAMILIES["chatml-unmarked"].metadata()
    codec = Codec(read_checkpoint(str(write_vocabulary(tmp_path / "model.gguf", metadata))))
    (ids,) = codec.encode(["a<|im_end|>"], add_special_tokens=False)
    assert len(ids) == 2
    assert codec.decode([ids], skip_special_tokens=True) == ["a"]
