"""Decodes as they are served: captured, launched ahead, in the dtypes that GPUs are for."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.common.checkpoints import SMOLLM_135M, write_checkpoint
from bench.gpu.engine.gate import ALTERNATIVES, BOUNDS, Answer, judge
from services.generator.backend.gpu.device import Device
from services.generator.engine import SamplingParams
from tests.generator.backend.gpu.engines import Outputs, on_cpu, on_device, run

SHAPE: dict[str, Any] = {
    **SMOLLM_135M, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
# seven, which are padded to eight; of one token to several chunks
PROMPTS: dict[str, Sequence[int]] = {
    str(length): [(37 * place + length) % 509 for place in range(length)]
    for length in (1, 3, 15, 16, 17, 40, 70)
}
OPTIONS: dict[str, Any] = {
    "max_num_seqs": 9,
    "max_batched_tokens": 32,
    "kv_cache_bytes": 2**22,
    # a second run on an engine computes what the first did
    "prefix_caching": False,
}
HOT = SamplingParams(max_tokens=24, temperature=1.5, top_p=0.9, seed=4, ignore_eos=True)


def greedy(max_tokens: int) -> SamplingParams:
    """Return greedy parameters, with as many alternatives as may be asked for."""
    return SamplingParams(
        max_tokens=max_tokens, temperature=0.0, ignore_eos=True, logprobs=ALTERNATIVES
    )


def answers(outputs: Outputs) -> list[Answer]:
    """Return the outputs in the order of the prompts."""
    return [Answer(*outputs[name]) for name in PROMPTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Llama of two layers."""
    return write_checkpoint(tmp_path_factory.mktemp("llama"), SHAPE)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tokens_are_the_cpus_where_no_tie_is_near(
    folder: Path, device: Device, dtype: str, graphs: bool
) -> None:
    """Where a token differs, the CPU holds both nearly as likely; logprobs before it are near."""
    params = greedy(24)
    expected = answers(run(on_cpu(folder, dtype=dtype, **OPTIONS), PROMPTS, params))
    engine = on_device(folder, device, dtype=dtype, graphs=graphs, **OPTIONS)
    # the CPU computes float16 in float32, and float16 has more bits than bfloat16
    bound = BOUNDS["float32" if dtype == "float32" else "bfloat16"]
    verdict = judge(expected, answers(run(engine, PROMPTS, params)), bound)
    assert verdict.failed is None
    assert verdict.tokens > 24


@pytest.mark.gpu
def test_keys_and_values_in_eight_bits(folder: Path, device: Device) -> None:
    """Tokens are the CPU's where no tie is near; rounding to fp8 moves their logprobs a little."""
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("float8 needs sm_90")
    expected = answers(run(on_cpu(folder, dtype="bfloat16", **OPTIONS), PROMPTS, greedy(24)))
    engine = on_device(folder, device, dtype="bfloat16", kv_cache_dtype="fp8", **OPTIONS)
    assert judge(expected, answers(run(engine, PROMPTS, greedy(24))), 0.1).failed is None


@pytest.mark.gpu
@pytest.mark.parametrize("params", [HOT, greedy(24)], ids=["drawn", "greedy"])
def test_a_device_that_is_behind_reads_what_was_meant(
    folder: Path, device: Device, params: SamplingParams
) -> None:
    """The host writes no memory that a copy still reads, however far ahead it is."""
    engine = on_device(folder, device, dtype="bfloat16", **OPTIONS)
    expected = run(engine, PROMPTS, params)
    cuda: Any = torch.cuda
    assert run(engine, PROMPTS, params, lambda: cuda._sleep(10**8)) == expected


@pytest.mark.gpu
def test_another_thread_may_step(folder: Path, device: Device) -> None:
    """What a thread has of its own, its stream and its libraries' handles, is made anew."""
    engine = on_device(folder, device, dtype="bfloat16", **OPTIONS)
    expected = run(engine, PROMPTS, HOT)
    results: list[Outputs] = []
    thread = threading.Thread(target=lambda: results.append(run(engine, PROMPTS, HOT)))
    thread.start()
    thread.join()
    assert results == [expected]
