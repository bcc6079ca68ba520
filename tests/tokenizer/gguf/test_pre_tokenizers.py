"""Byte-level vocabularies against llama.cpp's ids, which `record.py` wrote down."""

import functools
import json
import time
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import Split

from services.tokenizer.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from services.tokenizer.gguf.tokenizer_json import tokenizer_json
from services.tokenizer.gguf.vocabulary import Vocabulary
from tests.tokenizer.gguf.cases import CASES, CHAT_MODEL, chat_model_metadata, our_ids
from tests.tokenizer.gguf.expected import digests, expected
from tests.tokenizer.gguf.odd_strings import odd_strings
from tests.tokenizer.gguf.vocabularies import byte_level_vocabulary, chat_model

_NAMES = {pre_tokenizer: name for name, pre_tokenizer in PRE_TOKENIZERS.items()}
# long runs on which a careless expression takes quadratic time
_RUNS = ["a", " ", "1", "\n", "'", "A", "é", "\u0301", "/", "日", " a", "1a", "\u3000", "A1", "\r"]
_RUNS += ["!", "'s", "aA", " \n", "٣", "12٣", "\t", " 1", "a\u0301", "!\n", "_"]


@functools.cache
def _digests(pre_tokenizer: PreTokenizer) -> list[str]:
    return digests(our_ids(byte_level_vocabulary(_NAMES[pre_tokenizer]), odd_strings()))


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_ids_are_those_of_llama_cpp(name: str) -> None:
    """For each name, in 2,000 odd strings, on a vocabulary whose merges cross every border."""
    recorded = expected()[name]
    assert _digests(PRE_TOKENIZERS[name]) == recorded.digests
    assert PRE_TOKENIZERS[name].adds_bos is recorded.adds_bos


def test_the_comparison_tells_all_rules_apart() -> None:
    """As many names have ids of their own in llama.cpp as there are rules in the table."""
    recorded = expected()
    assert len({tuple(recorded[name].digests) for name in PRE_TOKENIZERS}) == len(_NAMES)


@pytest.mark.skipif(chat_model() is None, reason="infermesh pull smollm2-135m-instruct")
def test_ids_of_the_chat_model_are_those_of_llama_cpp() -> None:
    """On its own vocabulary, in the same strings."""
    assert digests(our_ids(chat_model_metadata(), odd_strings())) == expected()[CHAT_MODEL].digests


@pytest.mark.parametrize("name", _NAMES.values())
def test_words_take_linear_time(name: str) -> None:
    """Ten thousand characters of any one kind take a moment, not minutes."""
    steps = [Split(Regex(each), "isolated") for each in PRE_TOKENIZERS[name].expressions]
    start = time.process_time()
    for run in _RUNS:
        for end in ("", "x", "1"):
            for step in steps:
                step.pre_tokenize_str(run * (10_000 // len(run)) + end)
    assert time.process_time() - start < 20


def test_merges_of_no_tokens_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """They can change nothing, and the library takes no file with them."""
    metadata: dict[str, Any] = byte_level_vocabulary("gpt-2")
    metadata["tokenizer.ggml.merges"] += ["Ġ nowhere", "nothing"]
    data = json.loads(tokenizer_json(Vocabulary(metadata)))
    assert ["Ġ", "nowhere"] not in data["model"]["merges"]
    assert "2 of" in caplog.text


def test_bytes_that_the_vocabulary_lacks_add_nothing() -> None:
    """Their neighbours do not merge over them."""
    metadata = CASES["gpt-2"].metadata()
    tokenizer = Tokenizer.from_str(tokenizer_json(Vocabulary(metadata)))
    tokens = [tokenizer.encode(text).tokens for text in ("a\x1cb", "a", "b", "ab")]
    assert tokens == [["a", "b"], ["a"], ["b"], ["ab"]]
