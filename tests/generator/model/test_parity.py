"""Token for token what transformers generates, in fp32, in every shape and under every schedule."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from services.generator.engine import Engine, EngineConfig, FinishReason, SamplingParams
from services.generator.loading import load_engine

BUNDLED = Path(__file__).parents[3] / "models" / "infermesh-tiny"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SHAPES: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"num_key_value_heads": 6},
    "mqa": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 16},
    "bias": {"attention_bias": True, "mlp_bias": True},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "llama3": {"rope_parameters": LLAMA3},
}
BLOCK_BYTES = 3 * 16 * 2 * 16 * 4
# Between the two best logits: more than twice the 1e-4 by which right computations may differ.
LEAD = 5e-4


def make_prompts(vocab_size: int, lengths: Sequence[int]) -> list[list[int]]:
    rng = random.Random(7)
    return [[rng.randrange(vocab_size) for _ in range(length)] for length in lengths]


def reference(model: Any, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Return transformers' greedy continuation of each prompt alone.

    Fails where a token leads the next best by so little that another order of summation may turn
    them round: libraries choose theirs by the processor.
    """
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
            pad_token_id=0, eos_token_id=None, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        best, second = torch.cat(out.logits).float().topk(2).values.unbind(-1)
        assert (best - second).min() > LEAD
        outputs.append(out.sequences[0, len(prompt) :].tolist())
    return outputs


def generate(engine: Engine, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Return the engine's greedy continuation of all prompts together."""
    params = SamplingParams(max_tokens=count, temperature=0, ignore_eos=True)
    outputs: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
    for index, prompt in enumerate(prompts):
        engine.add(str(index), prompt, params)
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id] += output.token_ids
            assert output.finish_reason in (None, FinishReason.LENGTH)
        engine.check()
    return list(outputs.values())


@pytest.mark.parametrize("attention", ["auto", "torch"])
def test_both_attentions(attention: str, make_llama: Callable) -> None:
    """The compiled kernel and torch's operations give the same tokens."""
    model, folder = make_llama(head_dim=16)
    prompts = make_prompts(89, (1, 33, 70, 129))
    engine = load_engine(EngineConfig(folder, attention=attention))
    assert generate(engine, prompts, 20) == reference(model, prompts, 20)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_alone_and_in_a_batch(shape: str, make_llama: Callable) -> None:
    """Each kind of Llama gives transformers' tokens, with one request or many."""
    model, folder = make_llama(**SHAPES[shape])
    prompts = make_prompts(89, (1, 33, 70))
    expected = reference(model, prompts, 20)
    engine = load_engine(EngineConfig(folder))
    assert [generate(engine, [prompt], 20)[0] for prompt in prompts] == expected
    engine = load_engine(EngineConfig(folder))
    assert generate(engine, prompts, 20) == expected


@pytest.fixture
def batch(make_llama: Callable) -> tuple[Path, list[list[int]], list[list[int]]]:
    """Return a model's folder, nine prompts of mixed lengths, and the expected outputs."""
    model, folder = make_llama()
    prompts = make_prompts(89, (1, 2, 15, 16, 17, 40, 64, 100, 150))
    return folder, prompts, reference(model, prompts, 24)


@pytest.mark.parametrize("max_batched_tokens", [8, 13, 64, 512])
def test_every_chunk_size(batch: Any, max_batched_tokens: int) -> None:
    """However prompts are cut, the tokens are the same, the first time and with prefix hits."""
    folder, prompts, expected = batch
    config = EngineConfig(folder, max_num_seqs=8, max_batched_tokens=max_batched_tokens)
    engine = load_engine(config)
    assert generate(engine, prompts, 24) == expected
    assert engine.stats().num_prefix_hit_tokens == 0
    assert generate(engine, prompts, 24) == expected
    assert engine.stats().num_prefix_hit_tokens > 200


@pytest.mark.parametrize("num_blocks", [11, 16])
def test_forced_preemption(batch: Any, num_blocks: int) -> None:
    """A pool that is far too small costs time, not a single token."""
    folder, prompts, expected = batch
    config = EngineConfig(folder, kv_cache_bytes=num_blocks * BLOCK_BYTES, output_quantile=0.0)
    engine = load_engine(config)
    assert engine.stats().num_blocks_total == num_blocks
    assert generate(engine, prompts, 24) == expected
    assert engine.stats().num_preemptions > 0
    assert engine.stats().num_blocks_used == 0


def test_a_partly_shared_prefix(batch: Any, make_llama: Callable) -> None:
    """A hit on another request's blocks continues with this request's tokens."""
    model, folder = make_llama()
    stem, *tails = make_prompts(89, (48, 3, 20))
    prompts = [stem + tail for tail in tails]
    engine = load_engine(EngineConfig(folder))
    generate(engine, [stem], 4)
    assert generate(engine, prompts, 16) == reference(model, prompts, 16)
    assert engine.stats().num_prefix_hit_tokens == 2 * 48


def test_old_configuration_form(make_llama: Callable) -> None:
    """The form before transformers 5 reads as the same model."""
    model, folder = make_llama(rope_parameters=LLAMA3)
    prompts = make_prompts(89, (60,))
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    raw["rope_scaling"] = rope
    raw["torch_dtype"] = raw.pop("dtype")
    path.write_text(json.dumps(raw))
    assert generate(load_engine(EngineConfig(folder)), prompts, 20) == reference(model, prompts, 20)


def test_seeded_requests_repeat_in_any_batch(make_llama: Callable) -> None:
    """A seeded request samples the same tokens alone, in a batch, and under preemption."""
    _, folder = make_llama(head_dim=16)  # which the batch-invariant attention serves
    prompts = make_prompts(89, (1, 2, 15, 16, 17, 40, 64))
    params = SamplingParams(max_tokens=24, temperature=0.8, top_p=0.9, seed=11, ignore_eos=True)

    def run(config: EngineConfig, num_others: int) -> list[int]:
        engine = load_engine(config)
        for index in range(num_others):
            engine.add(str(index), prompts[index], SamplingParams(max_tokens=24))
        engine.add("mine", prompts[6], params)
        tokens: list[int] = []
        while engine.has_work:
            for output in engine.step():
                tokens += output.token_ids if output.request_id == "mine" else ()
        return tokens

    alone = run(EngineConfig(folder), 0)
    assert len(set(alone)) > 5
    assert run(EngineConfig(folder), 6) == alone
    assert run(EngineConfig(folder, kv_cache_bytes=11 * 2 * BLOCK_BYTES), 6) == alone


def test_nan_ends_one_request_and_leaves_no_trace(make_llama: Callable) -> None:
    """A request whose logits are NaN ends with an error; its blocks do no harm to later ones."""
    model, folder = make_llama()
    prompts = [[index % 40 for index in range(first, first + 30)] for first in range(3)]
    expected = reference(model, prompts, 12)
    with torch.no_grad():
        model.model.embed_tokens.weight[88] = float("nan")
    model.save_pretrained(folder)
    engine = load_engine(EngineConfig(folder, kv_cache_bytes=16 * BLOCK_BYTES))
    engine.add("bad", [5] * 20 + [88], SamplingParams(temperature=0))
    [output] = engine.step()
    assert output.finish_reason is FinishReason.ERROR
    assert not any(88 in tokens for tokens in expected)
    assert generate(engine, prompts, 12) == expected


def test_the_bundled_model() -> None:
    """The model in this repository gives transformers' tokens in fp32."""
    model = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    prompts = make_prompts(model.config.vocab_size, (5, 40))
    engine = load_engine(EngineConfig(BUNDLED, dtype="float32"))
    model.generation_config.eos_token_id = None
    assert generate(engine, prompts, 24) == reference(model, prompts, 24)
