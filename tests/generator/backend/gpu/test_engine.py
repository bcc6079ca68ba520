"""Everything that a request may ask for, on the GPU's path as on the CPU's, in float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.common.checkpoints import SMOLLM_135M, write_checkpoint
from services.generator.backend.gpu.decode_graphs import ladder
from services.generator.backend.gpu.device import Device, HostDevice
from services.generator.engine import EngineConfig, EngineConfigError, SamplingParams
from services.generator.loading import load_engine
from services.generator.model.errors import ModelConfigError
from tests.generator.backend.gpu.engines import assert_same_outputs, on_cpu, on_device, run

GREEDY = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
SHAPE: dict[str, Any] = {
    **SMOLLM_135M, "torch_dtype": "float32", "vocab_size": 89, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
PROMPTS = {"a": [5, 6, 7], "b": [9, 3, 80, 14, 15, 9, 2, 6, 53], "c": list(range(20, 40))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Llama of one layer whose heads the kernels take."""
    return write_checkpoint(tmp_path_factory.mktemp("llama"), SHAPE)


def assert_equal(
    folder: Path,
    device: Device,
    params: SamplingParams,
    prompts: dict[str, Sequence[int]] | None = None,
    **options: Any,
) -> None:
    """Serve the same on both; tokens are equal and their log-probabilities are near."""
    expected, actual = (
        run(engine, prompts or PROMPTS, params)
        for engine in (on_cpu(folder, **options), on_device(folder, device, **options))
    )
    assert_same_outputs(actual, expected)


@pytest.mark.parametrize("graphs", [True, False])
def test_chunked_prompts_beside_decodes(folder: Path, device: Device, graphs: bool) -> None:
    """A prompt longer than the budget is computed in chunks while others decode."""
    assert_equal(folder, device, GREEDY, graphs=graphs)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 2, "logprobs": 2},
        {"beam_width": 2, "max_tokens": 3},
        {"prompt_logprobs": 3},
        {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.4},
        {"bad_token_ids": (3, 5), "logit_bias": ((7, 2.0),), "min_tokens": 2},
        {"allowed_token_ids": (11, 12, 13)},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_what_a_request_may_ask_for(folder: Path, device: Device, changes: dict[str, Any]) -> None:
    """Forks, beams, log-probabilities, penalties and edits."""
    params = {"max_tokens": 4, "temperature": 0.0, **changes}
    prompts = {name: PROMPTS[name] for name in ("a", "b")}
    assert_equal(folder, device, SamplingParams(**params), prompts)


def test_guessed_tokens(folder: Path, device: Device) -> None:
    """Drafts are computed as decodes of one request, and kept where they are right."""
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    assert_equal(folder, device, params, {"a": [5, 6, 5, 6, 5, 6, 5]}, speculative_tokens=3)


def test_a_full_cache_preempts(folder: Path, device: Device) -> None:
    """Where blocks run out somebody computes again later, to the same tokens."""
    block_bytes = 4 * 16 * 2 * 64
    params = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)
    prompts = {name: list(range(number, number + 9)) for name, number in (("a", 3), ("b", 40))}
    options: dict[str, Any] = {"kv_cache_bytes": 3 * block_bytes, "output_quantile": 0.0}
    expected = run(on_cpu(folder, **options), prompts, params)
    engine = on_device(folder, device, **options)
    assert run(engine, prompts, params) == expected
    assert engine.stats().num_preemptions > 0


def test_a_cached_prefix_is_read(folder: Path, device: Device) -> None:
    """A second prompt skips the blocks that the first has computed."""
    prompts = {"a": list(range(20, 56))}
    engine = on_device(folder, device)
    first = run(engine, prompts, GREEDY)
    assert run(engine, prompts, GREEDY) == first
    assert engine.stats().num_prefix_hit_tokens == 32


def test_a_seed_draws_the_same_alone_and_in_a_batch(folder: Path, device: Device) -> None:
    """And another seed draws something else."""
    hot = {"max_tokens": 6, "temperature": 2.0, "ignore_eos": True}
    engine = on_device(folder, device)
    alone = run(engine, {"a": [5, 6, 7]}, SamplingParams(seed=3, **hot))["a"][0]
    beside = run(engine, {"x": [8] * 9, "a": [5, 6, 7]}, SamplingParams(seed=3, **hot))["a"][0]
    other = run(engine, {"a": [5, 6, 7]}, SamplingParams(seed=4, **hot))["a"][0]
    assert alone == beside != other


def test_no_device_is_refused(folder: Path) -> None:
    """Where torch finds no GPU the option is named."""
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(EngineConfigError, match="device: is cuda"):
        load_engine(EngineConfig(folder, device="cuda"))


def test_heads_that_the_kernels_do_not_take_are_refused(tmp_path: Path, device: Device) -> None:
    """By the name of the field in the model's file."""
    write_checkpoint(tmp_path, {**SHAPE, "hidden_size": 64})
    with pytest.raises(ModelConfigError, match="head_dim: 32 is not one of"):
        on_device(tmp_path, device)


def test_a_model_that_does_not_fit_is_refused(folder: Path) -> None:
    """Before the first weight is read, with what there is."""
    with pytest.raises(EngineConfigError, match=r"model: its weights take .* are free"):
        on_device(folder, HostDevice(num_bytes=1000))


def test_the_cache_takes_its_share_of_what_is_left(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The arithmetic is one line of the log."""
    caplog.set_level("INFO")
    options: dict[str, Any] = {"kv_cache_bytes": None, "max_num_seqs": 16, "graphs": False}
    engine = on_device(folder, HostDevice(num_bytes=2**19), **options)
    assert engine.stats().num_blocks_total == int(2**19 * 0.9) // (4 * 16 * 2 * 64)
    assert "beside weights of" in caplog.text


@pytest.mark.parametrize("largest", [1, 3, 8, 60, 256, 1024])
def test_the_ladder_wastes_little(largest: int) -> None:
    """Each batch has a size that fits it; padding is at most 7 rows, later an eighth."""
    sizes = ladder(largest)
    assert sizes == sorted(set(sizes)) and sizes[-1] == largest
    for batch in range(1, largest + 1):
        padded = next(size for size in sizes if size >= batch)
        assert padded - batch < max(8, batch / 7 + 1)


def test_weights_in_eight_bits(folder: Path, device: Device) -> None:
    """Rounded at load; tokens are those of the CPU's rounded weights where no tie is near."""
    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True, logprobs=0)
    prompts = {"a": PROMPTS["a"]}
    whole = run(on_device(folder, device), prompts, params)["a"]
    rounded = run(on_device(folder, device, quantization="int8"), prompts, params)["a"]
    assert rounded[0] == whole[0]
    gaps = [abs(r.logprob - w.logprob) for r, w in zip(rounded[1], whole[1], strict=True)]
    assert 0.0 < max(gaps) < 0.02
