"""Greedy tokens of a real file against transformers' model of its weights, in float32."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.generator.engine import Engine, EngineConfig, FinishReason, SamplingParams
from services.generator.loading import load_engine
from services.tokenizer.chat import Message
from services.tokenizer.chat_encoder import ChatEncoder
from services.tokenizer.codec import Codec
from services.tokenizer.gguf.checkpoint import read_checkpoint
from tests.models.files import transformers_model

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]
COUNT = 24
PROMPTS = {
    "fact": "The capital of France is",
    "code": "def fibonacci(n):\n    ",
    "list": "Monday, Tuesday, Wednesday,",
    "german": "Es war einmal ein König, der hatte",
    "long": "The sea was calm and the wind came from the west. " * 60,
}


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    """Return the engine that makes floats of the file's weights."""
    config = EngineConfig(
        model, exact=True, dtype="float32", max_num_seqs=8, kv_cache_bytes=2**28, block_size=16
    )
    yield load_engine(config)


@pytest.fixture(scope="module")
def reference(model: Path) -> Any:
    """Return transformers' model."""
    return transformers_model(model)


@pytest.fixture(scope="module")
def codec(model: Path) -> Codec:
    """Return the file's tokenizer."""
    return Codec(read_checkpoint(str(model)))


def generated(engine: Engine, prompts: dict[str, list[int]], **params: Any) -> dict[str, list[int]]:
    """Return the greedy tokens of all prompts, served together."""
    for name, prompt in prompts.items():
        engine.add(name, prompt, SamplingParams(temperature=0.0, **params))
    tokens: dict[str, list[int]] = {name: [] for name in prompts}
    while engine.has_work:
        for output in engine.step():
            tokens[output.request_id] += output.token_ids
    return tokens


def test_tokens_are_those_of_transformers(engine: Engine, reference: Any, codec: Codec) -> None:
    """Served together, one of them longer than a sliding window."""
    encoded = codec.encode(list(PROMPTS.values()), add_special_tokens=True)
    prompts = dict(zip(PROMPTS, encoded, strict=True))
    actual = generated(engine, prompts, max_tokens=COUNT, ignore_eos=True)
    for name, prompt in prompts.items():
        assert actual[name] == greedy(reference, prompt), name
    assert len(prompts["long"]) > 512


def greedy(reference: Any, prompt: list[int]) -> list[int]:
    """Return what the reference continues a prompt with, whatever ends a text."""
    given, cache, tokens = torch.tensor([prompt]), None, []
    with torch.inference_mode():
        for _ in range(COUNT):
            output = reference(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            tokens.append(int(output.logits[0, -1].argmax()))
            given = torch.tensor([tokens[-1:]])
    return tokens


def test_the_answer_is_right(engine: Engine, codec: Codec, model: Path) -> None:
    """Paris, of a base model as of a chat model by its template."""
    chat, question = ChatEncoder(read_checkpoint(str(model))), "What is the capital of France?"
    if chat.has_template:
        prompt = chat.encode([Message("user", question)], add_generation_prompt=True).ids
    else:
        text = f"Question: {question}\nAnswer:"
        [prompt] = codec.encode([text], add_special_tokens=True)
    tokens = generated(engine, {"a": prompt}, max_tokens=12)["a"]
    assert "Paris" in codec.decode([tokens], skip_special_tokens=True)[0]


def test_a_turns_end_ends_a_sequence(engine: Engine, codec: Codec, model: Path) -> None:
    """Of a base model too, whose file does not say so."""
    end = "<end_of_turn>" if "gemma" in model.name else "<|im_end|>"
    [[token]] = codec.encode([end], add_special_tokens=False)
    assert token in engine.model_config.eos_token_ids
    [prompt] = codec.encode(["Hello"], add_special_tokens=True)
    bias = ((token, 100.0),)
    engine.add("a", prompt, SamplingParams(temperature=0.0, max_tokens=5, logit_bias=bias))
    outputs = [output for _ in range(20) if engine.has_work for output in engine.step()]
    assert outputs[-1].finish_reason == FinishReason.STOP
    assert sum(len(output.token_ids) for output in outputs) <= 1
