"""SentencePiece's vocabularies against llama.cpp's ids, which `record.py` wrote down."""

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mesh.gguf_vocabulary import CONTROL, NORMAL
from services.tokenizer.gguf.tokenizer_json import tokenizer_json
from services.tokenizer.gguf.vocabulary import Vocabulary
from services.tokenizer.pieces import Pieces, TextDecoder
from tests.tokenizer.gguf.cases import SENTENCE_PIECE, our_ids
from tests.tokenizer.gguf.expected import digests, expected
from tests.tokenizer.gguf.sentence_piece_vocabularies import random_vocabulary


@functools.cache
def _tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_json(Vocabulary(SENTENCE_PIECE[name].metadata())))


def _tokens(text: str, metadata: dict[str, Any]) -> list[str]:
    encoding = Tokenizer.from_str(tokenizer_json(Vocabulary(metadata))).encode(
        text, add_special_tokens=False
    )
    tokens: list[str] = encoding.tokens
    return tokens


@pytest.mark.parametrize("name", SENTENCE_PIECE)
def test_ids_are_those_of_llama_cpp(name: str) -> None:
    """With and without a blank before the text, Llama's scores and Gemma's ids, 2,000 strings."""
    case = SENTENCE_PIECE[name]
    assert digests(our_ids(case.metadata(), case.strings())) == expected()[name].digests
    assert expected()[name].adds_bos


@pytest.mark.parametrize("name", SENTENCE_PIECE)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_streamed_text_is_the_whole_text(name: str, data: st.DataObject) -> None:
    """However the ids of a text are portioned, control tokens and bytes among them."""
    tokenizer = _tokenizer(name)
    text = data.draw(st.sampled_from(SENTENCE_PIECE[name].strings()))
    ids = tokenizer.encode(text, add_special_tokens=data.draw(st.booleans())).ids
    decoder = TextDecoder(Pieces.of(tokenizer))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    portions = [ids[start:end] for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    streamed = "".join(decoder.push(portion) for portion in portions)
    assert streamed + decoder.push([], final=True) == tokenizer.decode(ids)


def test_text_makes_no_control_token_of_pieces() -> None:
    """Where merges could give its name, which llama.cpp lets happen."""
    metadata = random_vocabulary(0, adds_blank=False)
    tokens, types = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    token_id = next(i for i, kind in enumerate(types) if kind == NORMAL and len(tokens[i]) == 2)
    types[token_id] = CONTROL
    tokenizer = Tokenizer.from_str(tokenizer_json(Vocabulary(metadata)))
    assert [token.value for token in tokenizer.model.tokenize(tokens[token_id])] == [
        *tokens[token_id]
    ]


@pytest.mark.parametrize("length", [2, 7, 8, 20])
def test_the_longest_run_that_users_defined_goes_first(length: int) -> None:
    """Gemma's runs of blanks have one score: the first in the text grows before the next."""
    tokens = _tokens(" " * length, random_vocabulary(0, adds_blank=False, architecture="gemma2"))
    runs = ["▁" * 7] * (length // 7)
    assert tokens == [*runs, "▁" * (length % 7)] if length % 7 else tokens == runs


def test_pieces_without_scores_go_by_their_ids() -> None:
    """A file with one score for all, or with none, has them in the order of their merges."""
    metadata = random_vocabulary(0, adds_blank=True, architecture="gemma2")
    scores = metadata["tokenizer.ggml.scores"]
    by_id = {**metadata, "general.architecture": "llama"}
    texts = SENTENCE_PIECE["random-gemma2-0"].strings()[:200]
    same = our_ids({**by_id, "tokenizer.ggml.scores": [-1000.0] * len(scores)}, texts)
    none = {name: value for name, value in by_id.items() if name != "tokenizer.ggml.scores"}
    assert same == our_ids(none, texts) == our_ids(metadata, texts)
