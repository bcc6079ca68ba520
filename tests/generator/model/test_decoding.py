"""Decoding options on a real model: log-probabilities against transformers', rows side by side."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from services.generator.engine import (
    Engine,
    EngineConfig,
    FinishReason,
    SamplingParams,
    TokenLogprobs,
)
from services.generator.loading import load_engine
from tests.generator.model.test_parity import BLOCK_BYTES, make_prompts

OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"typical_p": 0.7},
    {"repetition_penalty": 1.4},
    {"frequency_penalty": 0.7, "presence_penalty": 0.4},
    {"logit_bias": ((3, 5.0), (4, -100.0))},
    {"allowed_token_ids": tuple(range(0, 89, 3))},
    {"bad_token_ids": tuple(range(0, 89, 2))},
    {"min_tokens": 5, "stop_token_ids": tuple(range(30))},
    {"logprobs": 3},
    {"prompt_logprobs": 2},
    {"top_k": 30, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9, "repetition_penalty": 1.2},
]


class Total:
    """The outputs of one request, added up."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs: list[TokenLogprobs] = []


def generate(
    engine: Engine, asked: Sequence[tuple[Sequence[int], SamplingParams]]
) -> dict[str, Total]:
    """Run requests together; return what each yields, by number."""
    totals = {str(index): Total() for index in range(len(asked))}
    for index, (prompt, params) in enumerate(asked):
        engine.add(str(index), prompt, params)
    while engine.has_work:
        for output in engine.step():
            mine = totals[output.request_id]
            # prompt and first token come in one output
            assert not (output.prompt_logprobs and mine.token_ids)
            mine.token_ids += output.token_ids
            mine.logprobs += output.logprobs
            mine.prompt_logprobs += output.prompt_logprobs
        engine.check()
    return totals


def check(
    actual: list[TokenLogprobs], logits: torch.Tensor, token_ids: list[int], top: int
) -> None:
    """Compare with the full log-softmax of transformers' logits [n, vocab], one row per token."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    assert [one.token_id for one in actual] == token_ids
    for one, row in zip(actual, logprobs, strict=True):
        assert one.logprob == pytest.approx(row[one.token_id].item(), abs=1e-4)
        assert one.rank == 1 + (row > row[one.token_id]).sum()
        values, ids = row.topk(top)
        assert list(one.top_token_ids) == ids.tolist()
        assert list(one.top_logprobs) == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("max_batched_tokens", [8, 13, 64, 512])
def test_logprobs_are_those_of_transformers(
    make_llama: Callable[..., tuple[Any, Path]], max_batched_tokens: int
) -> None:
    """Prompt and output are described alike however the prompt is cut, cached prefix or not."""
    model, folder = make_llama()
    prompts = make_prompts(89, (1, 2, 17, 40, 100))
    params = SamplingParams(
        max_tokens=8, temperature=1.3, seed=3, top_k=20, repetition_penalty=1.5, ignore_eos=True,
        logprobs=4, prompt_logprobs=3,
    )  # fmt: skip
    config = EngineConfig(folder, max_num_seqs=8, max_batched_tokens=max_batched_tokens)
    engine = load_engine(config)
    first = generate(engine, [(prompt, params) for prompt in prompts])
    again = generate(engine, [(prompt, params) for prompt in prompts])
    assert engine.stats().num_prefix_hit_tokens == 0
    for totals in (first, again):
        for prompt, mine in zip(prompts, totals.values(), strict=True):
            with torch.inference_mode():
                logits = model(torch.tensor([prompt + mine.token_ids])).logits[0]
            check(mine.prompt_logprobs, logits[: len(prompt) - 1], prompt[1:], 3)
            check(mine.logprobs, logits[len(prompt) - 1 : -1], mine.token_ids, 4)


def test_prompt_logprobs_come_once_under_preemption(
    make_llama: Callable[..., tuple[Any, Path]],
) -> None:
    """A prompt that loses its place half-way goes on with its logprobs where it stopped."""
    _, folder = make_llama()
    prompts = make_prompts(89, (30, 100))
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True, prompt_logprobs=0)
    asked = [(prompt, params) for prompt in prompts]
    roomy = generate(load_engine(EngineConfig(folder)), asked)
    engine = load_engine(
        EngineConfig(
            folder,
            kv_cache_bytes=9 * BLOCK_BYTES,
            max_batched_tokens=8,
            max_num_seqs=8,
            output_quantile=0.0,
        )
    )
    tight = generate(engine, asked)
    assert engine.stats().num_preemptions > 0
    for prompt, one, other in zip(prompts, roomy.values(), tight.values(), strict=True):
        assert [p.token_id for p in other.prompt_logprobs] == prompt[1:]
        values = [p.logprob for p in one.prompt_logprobs]
        assert [p.logprob for p in other.prompt_logprobs] == pytest.approx(values, abs=1e-4)


def test_prefixes_of_scored_prompts_serve_others(
    make_llama: Callable[..., tuple[Any, Path]],
) -> None:
    """Prompt log-probabilities keep a request from hitting the cache, not from filling it."""
    _, folder = make_llama()
    [prompt] = make_prompts(89, (48,))
    engine = load_engine(EngineConfig(folder))
    generate(engine, [(prompt, SamplingParams(max_tokens=1, prompt_logprobs=0))])
    generate(engine, [(prompt, SamplingParams(max_tokens=1))])
    assert engine.stats().num_prefix_hit_tokens == 32


def test_a_stop_token_is_not_described(make_llama: Callable[..., tuple[Any, Path]]) -> None:
    """Each delivered token has its log-probability, and nothing else has."""
    _, folder = make_llama()
    engine = load_engine(EngineConfig(folder))
    params = SamplingParams(
        max_tokens=20, temperature=0, logprobs=0, stop_token_ids=tuple(range(0, 89, 5))
    )
    for prompt in make_prompts(89, (5, 6, 7)):
        [total] = generate(engine, [(prompt, params)]).values()
        assert [one.token_id for one in total.logprobs] == total.token_ids
        assert all(one.top_token_ids == () for one in total.logprobs)
    assert engine.stats().outcomes[FinishReason.STOP] > 0


def test_every_option_draws_alike_alone_and_in_a_batch(
    make_llama: Callable[..., tuple[Any, Path]],
) -> None:
    """A seeded request gives the same tokens by itself and among rows with all other options."""
    _, folder = make_llama(head_dim=16)  # which the batch-invariant attention serves
    prompts = make_prompts(89, [20] * len(OPTIONS))
    asked = [
        (prompt, SamplingParams(max_tokens=16, seed=index, ignore_eos=True, **changes))
        for index, (prompt, changes) in enumerate(zip(prompts, OPTIONS, strict=True))
    ]
    engine = load_engine(EngineConfig(folder))
    together = generate(engine, asked)
    for index, (one, total) in enumerate(zip(asked, together.values(), strict=True)):
        [alone] = generate(load_engine(EngineConfig(folder)), [one]).values()
        assert alone.token_ids == total.token_ids, OPTIONS[index]
