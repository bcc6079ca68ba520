"""A request has the same tokens and log-probabilities, bit for bit, whatever happens around it."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.common.checkpoints import write_checkpoint
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.loading import load_engine
from tests.generator.backend.cpu.kernels import needs
from tests.generator.model.conftest import save
from tests.generator.model.family_models import SAMPLES
from tests.generator.model.test_decoding import Total, generate
from tests.generator.model.test_parity import make_prompts

# torch's own attention is not batch-invariant
pytestmark = needs("paged_attention")

# Long rows, where libraries change their order of summation by the number of rows, and a
# vocabulary whose sums threads share out.
SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 33000,
    "hidden_size": 96,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "initializer_range": 0.15,
    "torch_dtype": "float32",
}
Numbers = tuple[str, str | None]  # dtype and quantization
NUMBERS = pytest.mark.parametrize(
    "numbers", [("bfloat16", None), ("float32", None), ("bfloat16", "int8")], ids=str
)
LENGTHS = (1, 30, 64, 70, 100)
# the first is greedy; asking for the prompt's scores, two share no prefix
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 1},
    {"temperature": 0.9, "seed": 2, "top_p": 0.9},
    {"temperature": 1.0, "seed": 3, "typical_p": 0.8, "prompt_logprobs": 1},
    {"temperature": 0.0, "prompt_logprobs": 2},
]
Asked = list[tuple[list[int], SamplingParams]]
Load = Callable[..., Engine]
Alone = Callable[[Numbers], list[object]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of all these tests but the families'."""
    return write_checkpoint(tmp_path_factory.mktemp("invariance"), SHAPE)


@pytest.fixture(scope="module")
def load(folder: Path) -> Load:
    """Return a loader of engines on the checkpoint."""

    def load(numbers: Numbers, **options: Any) -> Engine:
        dtype, quantization = numbers
        given = {"kv_cache_bytes": 2**23, **options}
        return load_engine(EngineConfig(folder, dtype, quantization=quantization, **given))

    return load


@pytest.fixture(scope="module")
def alone(load: Load) -> Alone:
    """Return what each request yields by itself, its prompt in one piece, made once."""

    @functools.cache
    def yields(numbers: Numbers) -> list[object]:
        engine = load(numbers)
        return [fact for request in asked() for fact in together(engine, [request])]

    return yields


def asked() -> Asked:
    """Return requests of several lengths, each with its own options."""
    prompts = make_prompts(SHAPE["vocab_size"], LENGTHS)
    return [
        (prompt, SamplingParams(max_tokens=10, ignore_eos=True, logprobs=2, **options))
        for prompt, options in zip(prompts, OPTIONS, strict=True)
    ]


def facts(total: Total) -> tuple[object, ...]:
    """Return all that must be equal; floats as they are."""
    return total.token_ids, total.logprobs, total.prompt_logprobs


def together(engine: Engine, requests: Asked) -> list[object]:
    """Return what each request yields among the others."""
    return [facts(total) for total in generate(engine, requests).values()]


@NUMBERS
def test_in_a_batch_as_alone(load: Load, alone: Alone, numbers: Numbers) -> None:
    """Prompts and decodes of others in the same steps change nothing."""
    assert together(load(numbers), asked()) == alone(numbers)


def test_in_a_batch_as_alone_with_two_threads(load: Load) -> None:
    """Threads share out the work by its size, which is a way to depend on it."""
    num_threads = torch.get_num_threads()
    try:
        engine = load(("float32", None), num_threads=2)
        by_themselves = [fact for request in asked() for fact in together(engine, [request])]
        assert together(load(("float32", None), num_threads=2), asked()) == by_themselves
    finally:
        torch.set_num_threads(num_threads)


@NUMBERS
def test_decodes_in_a_batch_as_alone(load: Load, numbers: Numbers) -> None:
    """The same for prompts of one token, whose steps have single queries only."""
    requests = [(prompt[:1], params) for prompt, params in asked()]
    engine = load(numbers)
    by_themselves = [fact for request in requests for fact in together(engine, [request])]
    assert together(load(numbers), requests) == by_themselves


@NUMBERS
@pytest.mark.parametrize("max_batched_tokens", [8, 23])
def test_prompts_in_chunks_as_at_once(
    load: Load, alone: Alone, numbers: Numbers, max_batched_tokens: int
) -> None:
    """However a step's budget cuts the prompts."""
    engine = load(numbers, max_batched_tokens=max_batched_tokens, max_num_seqs=8)
    assert together(engine, asked()) == alone(numbers)


@NUMBERS
def test_behind_a_cached_prefix_as_without(load: Load, alone: Alone, numbers: Numbers) -> None:
    """What others computed of a prompt is what the request would have computed."""
    engine = load(numbers)
    together(engine, asked())
    assert engine.stats().num_prefix_hit_tokens == 0
    assert together(engine, asked()) == alone(numbers)
    assert engine.stats().num_prefix_hit_tokens > 0


@NUMBERS
def test_after_a_preemption_as_without(load: Load, alone: Alone, numbers: Numbers) -> None:
    """A request that lost its blocks goes on as if it had kept them."""
    block_bytes = 2 * 16 * 2 * 2 * 16 * (2 if numbers[0] == "bfloat16" else 4)
    engine = load(numbers, kv_cache_bytes=8 * block_bytes, output_quantile=0.0)
    assert together(engine, asked()) == alone(numbers)
    assert engine.stats().num_preemptions > 0


@pytest.mark.parametrize("family", ["qwen3_moe_normalized", "gemma2", "phi3_long", "gpt2"])
def test_every_kind_of_layer(family: str, tmp_path: Path) -> None:
    """Experts, head norms, capped scores, windows and other activations, alone and in a batch.

    With heads that the compiled attention serves.
    """
    sample = SAMPLES[family]
    if sample.changes.get("head_dim") == 24:
        sample = dataclasses.replace(sample, changes={**sample.changes, "head_dim": 32})
    save(sample.build(), tmp_path)
    prompts = make_prompts(89, LENGTHS)
    params = SamplingParams(max_tokens=10, temperature=0.0, ignore_eos=True, logprobs=2)
    requests = [(prompt, params) for prompt in prompts]

    engine = load_engine(EngineConfig(tmp_path, kv_cache_bytes=2**22))
    by_themselves = [fact for request in requests for fact in together(engine, [request])]
    engine = load_engine(EngineConfig(tmp_path, kv_cache_bytes=2**22))
    assert together(engine, requests) == by_themselves
