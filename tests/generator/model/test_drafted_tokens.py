"""With drafts a real model gives the very tokens that it gives without, in float32."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from services.generator.backend.cpu.runner import CpuRunner
from services.generator.engine import Engine, EngineConfig, SamplingParams, StepOutput
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.model.kv_cache import KVCache
from tests.generator.model.cpu_model import load_model
from tests.generator.model.test_parity import make_prompts, reference

MakeLlama = Callable[..., tuple[Any, Path]]
BLOCK_SIZE = 16


def make_engine(folder: Path, speculative_tokens: int, **options: Any) -> Engine:
    """Make an engine whose clock says that drafts cost nothing, so that all are tried."""
    model = load_model(folder, attention=options.pop("attention", "auto"))
    num_blocks = options.pop("num_blocks", 1000)
    config = EngineConfig(
        folder, block_size=BLOCK_SIZE, speculative_tokens=speculative_tokens, **options
    )
    runner = CpuRunner(model, KVCache(model.config, num_blocks, BLOCK_SIZE, model.dtype))
    clock = itertools.count().__next__
    pool = BlockPool(num_blocks, BLOCK_SIZE)
    engine = Engine(config, model.config, runner, pool, clock=lambda: float(clock()))
    for num_rows in (1, 1000):
        engine._scheduler.speculation.observe_step(num_rows, 1.0)
    return engine


def generate(
    engine: Engine, asked: Sequence[tuple[list[int], SamplingParams]]
) -> list[list[StepOutput]]:
    """Run all requests together; return each one's outputs."""
    outputs: dict[str, list[StepOutput]] = {str(index): [] for index in range(len(asked))}
    for index, (prompt, params) in enumerate(asked):
        engine.add(str(index), prompt, params)
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        engine.check()
    return list(outputs.values())


def tokens(outputs: list[StepOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


def repetitive(seed: int, length: int, vocab_size: int) -> list[int]:
    """Return a prompt of phrases over and over, in which most pairs of tokens are known."""
    rng = random.Random(seed)
    phrases = [[rng.randrange(vocab_size) for _ in range(5)] for _ in range(3)]
    return [token for _ in range(length) for token in rng.choice(phrases)][:length]


@pytest.mark.parametrize("attention", ["auto", "torch"])
def test_greedy_tokens_are_those_of_transformers(attention: str, make_llama: MakeLlama) -> None:
    """Accepted or not, drafts leave transformers' tokens as they are, in a tiny pool too."""
    model, folder = make_llama(head_dim=16)
    prompts = [*make_prompts(89, (1, 33)), *(repetitive(seed, 40, 89) for seed in range(2))]
    expected = reference(model, prompts, 40)
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    for num_blocks in (1000, 12):
        engine = make_engine(
            folder, 7, attention=attention, num_blocks=num_blocks, output_quantile=0.0
        )
        outputs = generate(engine, [(prompt, params) for prompt in prompts])
        assert [tokens(each) for each in outputs] == expected
        stats = engine.stats()
        assert stats.num_draft_tokens > stats.num_accepted_tokens > 0
        assert (stats.num_preemptions > 0) == (num_blocks == 12)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "frequency_penalty": 0.4, "allowed_token_ids": (0, 1, 3)},
        {"temperature": 0.9, "seed": 3, "presence_penalty": 0.7, "allowed_token_ids": (0, 1, 3, 4)},
        {"temperature": 0, "repetition_penalty": 1.1, "min_tokens": 30},
        {"temperature": 0, "allowed_token_ids": tuple(range(6)), "min_tokens": 7},
        {"temperature": 0.3, "seed": 5, "bad_token_ids": (1, 2, 3), "logit_bias": ((4, 3.0),)},
        {"temperature": 0.8, "seed": 5, "top_k": 3, "frequency_penalty": -0.5},
        {"temperature": 0.5, "seed": 9, "top_p": 0.6, "repetition_penalty": 0.8},
        {"temperature": 0.5, "seed": 9, "min_p": 0.2, "typical_p": 0.9, "min_tokens": 20},
    ],
    ids=str,
)
def test_every_option_counts_the_drafts_before(
    make_llama: MakeLlama, options: dict[str, Any]
) -> None:
    """Penalties, minima, filters and seeds see at each row what they would see without drafts."""
    _, folder = make_llama(head_dim=16)
    asked = [
        (
            repetitive(seed, 40, 8),
            SamplingParams(max_tokens=40, stop_token_ids=(5, 9), logprobs=3, **options),
        )
        for seed in range(3)
    ]
    plain = generate(make_engine(folder, 0), asked)
    engine = make_engine(folder, 7)
    drafted = generate(engine, asked)
    assert engine.stats().num_draft_tokens > 5
    for one, other in zip(plain, drafted, strict=True):
        assert tokens(one) == tokens(other)
        assert one[-1].finish_reason is other[-1].finish_reason
        assert one[-1].num_output_tokens == other[-1].num_output_tokens
        logprobs = [each for output in one for each in output.logprobs]
        drafted_logprobs = [each for output in other for each in output.logprobs]
        assert [each.token_id for each in drafted_logprobs] == tokens(other)
        assert [each.rank for each in drafted_logprobs] == [each.rank for each in logprobs]
        assert [each.top_token_ids for each in drafted_logprobs] == [
            each.top_token_ids for each in logprobs
        ]
        values = [each.logprob for each in logprobs]
        assert [each.logprob for each in drafted_logprobs] == pytest.approx(values, abs=1e-4)


def test_the_distribution_is_the_models(make_llama: MakeLlama) -> None:
    """A chi-square test cannot tell tokens drawn with drafts from the model's own (p = 0.001)."""
    model, folder = make_llama(vocab_size=6, num_hidden_layers=1, head_dim=16)
    [prompt] = make_prompts(6, (60,))
    count, vocab = 1024, range(6)
    starts = torch.tensor([[*prompt, first, second] for first in vocab for second in vocab])
    with torch.inference_mode():
        probabilities = torch.softmax(model(starts).logits[:, -3:].double(), dim=-1)
    expected = {}
    for start, rows in zip(starts.tolist(), probabilities, strict=True):
        first, second = start[-2:]
        for third in vocab:
            share = rows[0, first] * rows[1, second] * rows[2, third]
            expected[first, second, third] = float(share) * count
    engine = make_engine(folder, 7, seed=0)
    asked = [(prompt, SamplingParams(max_tokens=4, ignore_eos=True))] * 64
    seen = Counter(
        tuple(tokens(outputs)[:3])
        for _ in range(count // len(asked))
        for outputs in generate(engine, asked)
    )
    stats = engine.stats()
    assert stats.num_drafts > count / 2
    assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens
    common = [key for key, due in expected.items() if due >= 5]
    pairs = [(float(seen[key]), expected[key]) for key in common]
    pairs.append((count - sum(seen[key] for key in common), count - sum(due for _, due in pairs)))
    statistic = sum((number - due) ** 2 / due for number, due in pairs)
    degrees = len(pairs) - 1
    assert degrees >= 10
    # Wilson and Hilferty 1931
    part = 2 / (9 * degrees)
    assert statistic < degrees * (1 - part + 3.09 * part**0.5) ** 3
