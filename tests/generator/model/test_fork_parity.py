"""Sequences that fork from one prompt say what they say alone, on a real model in fp32."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.generator.engine import (
    Engine,
    EngineConfig,
    FinishReason,
    SamplingParams,
    sequence_id,
    sequence_seed,
)
from services.generator.loading import load_engine

PROMPT = list(range(3, 30))
DRAWN = SamplingParams(max_tokens=24, temperature=0.9, top_k=40, seed=11, ignore_eos=True, n=4)
NAMES = [sequence_id("a", index) for index in range(4)]


def load(folder: Path, kv_cache_bytes: int = 2**22) -> Engine:
    config = EngineConfig(folder, kv_cache_bytes=kv_cache_bytes, output_quantile=0.0, num_threads=1)
    return load_engine(config)


def collect(engine: Engine, outputs: dict[str, list[int]]) -> None:
    """Step until idle and gather each sequence's tokens."""
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).extend(output.token_ids)
        engine.check()


@pytest.fixture
def alone(make_llama: Callable, tmp_path: Path) -> dict[str, list[int]]:
    """Return what each sequence yields as a request of its own, without company."""
    make_llama(head_dim=16)  # which the batch-invariant attention serves
    engine = load(tmp_path)
    outputs: dict[str, list[int]] = {}
    for index, name in enumerate(NAMES):
        seed = sequence_seed(11, index)
        params = SamplingParams(24, temperature=0.9, top_k=40, seed=seed, ignore_eos=True)
        engine.add(name, PROMPT, params)
        collect(engine, outputs)
    return outputs


def test_seeded_sequences_are_those_of_separate_requests(
    alone: dict[str, list[int]], tmp_path: Path
) -> None:
    """Token for token, with the prompt computed once."""
    engine = load(tmp_path)
    engine.add("a", PROMPT, DRAWN)
    outputs: dict[str, list[int]] = {}
    collect(engine, outputs)
    assert outputs == alone
    assert len({tuple(tokens) for tokens in outputs.values()}) == 4
    assert engine.stats().num_computed_tokens == len(PROMPT) + 4 * 23


@pytest.mark.parametrize("num_steps", [0, 1, 6])
def test_the_end_of_one_changes_no_other(
    alone: dict[str, list[int]], tmp_path: Path, num_steps: int
) -> None:
    """Whenever the first sequence is aborted, the others say what they say alone."""
    engine = load(tmp_path)
    engine.add("a", PROMPT, DRAWN)
    outputs: dict[str, list[int]] = {}
    for _ in range(num_steps):
        for output in engine.step():
            outputs.setdefault(output.request_id, []).extend(output.token_ids)
    ended = engine.abort("a")
    assert ended is not None and ended.finish_reason is FinishReason.ABORT
    collect(engine, outputs)
    assert outputs.pop("a", []) == alone["a"][:num_steps]
    assert outputs == {name: alone[name] for name in NAMES[1:]}


def test_preempted_sequences_say_the_same(alone: dict[str, list[int]], tmp_path: Path) -> None:
    """A cache too small for all makes some compute again, out of sight."""
    block_bytes = 3 * 16 * 2 * 32 * 4
    engine = load(tmp_path, kv_cache_bytes=8 * block_bytes)
    engine.add("a", PROMPT, DRAWN)
    outputs: dict[str, list[int]] = {}
    collect(engine, outputs)
    assert outputs == alone
    assert engine.stats().num_preemptions > 0
