"""The engine's part of `bench.gpu` on the CPU, in a shape of a few kilobytes."""

import importlib.util

import pytest
import torch

from bench.common.checkpoints import LLAMA_3_8B, TINY
from bench.gpu.engine.decode import DecodePlan, measure_decode
from bench.gpu.engine.floor import kv_bytes_per_token, step_bytes
from bench.gpu.engine.random_engine import load_random_engine
from bench.gpu.engine.workload import Workload, num_kv_tokens, serve, throughput
from services.generator.engine import Engine, SamplingParams

BUDGET = 64


def engine(num_tokens: int, max_num_seqs: int = 4, dtype: str = "bfloat16") -> Engine:
    return load_random_engine(
        TINY,
        device="cpu",
        max_num_seqs=max_num_seqs,
        num_tokens=num_tokens,
        dtype=dtype,
        max_batched_tokens=BUDGET,
    )


def test_the_floor_reads_every_matrix_and_the_contexts() -> None:
    """Llama-3-8B: 7,504,658,432 weights of two bytes, and 131,072 bytes per cached token."""
    assert kv_bytes_per_token(LLAMA_3_8B) == 2 * 32 * 8 * 128 * 2 == 131_072
    # its norms and its embedding table are not among them
    assert step_bytes(LLAMA_3_8B, 0) == 2 * (8_030_261_248 - 128256 * 4096 - 65 * 4096)
    assert step_bytes(LLAMA_3_8B, 1000) - step_bytes(LLAMA_3_8B, 0) == 131_072_000


def test_a_tied_head_is_read_although_the_table_is_not() -> None:
    """512 x 64 of the head, and in each of two layers 64 x (64 + 32 + 32 + 64) + 3 x 64 x 128."""
    assert step_bytes(TINY, 0) == 2 * (512 * 64 + 2 * (64 * 192 + 3 * 64 * 128))


def test_decodes_are_timed_against_the_floor() -> None:
    """3 sequences for 5 steps behind 20 tokens, and as many more as were decoded before."""
    plan = DecodePlan(3, prompt_tokens=20, warm_steps=2, steps=5, profiled_steps=0)
    subject = engine(plan.num_tokens(BUDGET))
    row = measure_decode(subject, TINY, plan, copy_bytes_per_s=1e9)
    assert not subject.has_work
    # the prompts fit into one step, whose token each has beside those of the warm-up
    assert row["mean_context"] == 20 + 1 + 2 + 2
    floor_s = step_bytes(TINY, 3 * row["mean_context"]) / 1e9
    assert row["floor_tokens_per_s"] == pytest.approx(3 / floor_s)
    assert row["share"] == pytest.approx(row["tokens_per_s"] / row["floor_tokens_per_s"])
    assert row["tokens_per_s"] == pytest.approx(3 / (row["step_ms"] / 1e3))


def test_sequences_that_wait_are_not_timed() -> None:
    """A batch larger than what the engine runs at once is told, and leaves no work behind."""
    plan = DecodePlan(5, prompt_tokens=20, warm_steps=2, steps=5, profiled_steps=0)
    subject = engine(plan.num_tokens(BUDGET), max_num_seqs=4)
    with pytest.raises(RuntimeError, match=r"ended early|only 4 of 5"):
        measure_decode(subject, TINY, plan, copy_bytes_per_s=1e9)
    assert not subject.has_work


def test_the_workload_is_the_same_for_a_seed() -> None:
    """256 prompts and outputs of 100 to 1,024 tokens."""
    workload = Workload()
    requests = workload.requests(0)
    assert requests == workload.requests(0) != workload.requests(1)
    lengths = [length for prompt, output in requests for length in (len(prompt), output)]
    assert len(requests) == 256
    assert (min(lengths), max(lengths)) >= (100, 1000)
    assert max(lengths) <= 1024
    assert num_kv_tokens(requests) == sum(lengths)


def test_the_workload_is_served_to_its_last_token() -> None:
    """More requests than run at once; every output token is counted, and none may be missing."""
    requests = Workload(6, 5, 20, TINY["vocab_size"]).requests(0)
    expected = sum(request.max_tokens for request in requests)
    row = serve(engine(num_kv_tokens(requests)), requests)
    assert row["output_tokens"] == expected
    assert row["tokens_per_s"] == pytest.approx(expected / row["wall_s"])
    with pytest.raises(RuntimeError, match=f"{expected - 1} of {expected}"):
        throughput(expected - 1, 1.0, requests)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="no transformers")
def test_transformers_has_the_same_weights() -> None:
    """Its continuous batching gives the greedy tokens of our engine, in float32."""
    from bench.gpu.engine.transformers_peer import answer, load_model

    requests = Workload(3, 5, 20, TINY["vocab_size"]).requests(0)
    subject = engine(num_kv_tokens(requests), dtype="float32")
    told: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
        params = SamplingParams(request.max_tokens, temperature=0.0, ignore_eos=True)
        subject.add(str(index), request.prompt, params)
    while subject.has_work:
        for output in subject.step():
            told.setdefault(output.request_id, []).extend(output.token_ids)
    model = load_model(TINY, "cpu", torch.float32)
    assert answer(model, requests, num_kv_tokens(requests)) == [told[str(i)] for i in range(3)]
