"""GGUF files on the GPU's path, four bits packed, against the CPU's, in float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.generator.backend.gpu.device import Device, HostDevice
from services.generator.engine import EngineConfigError, SamplingParams
from services.generator.model.checkpoint.model_files import open_weights
from tests.generator.backend.gpu.engines import assert_same_outputs, on_cpu, on_device, run
from tests.generator.model.checkpoint.gguf.converted import Quantization, convert
from tests.generator.model.conftest import save
from tests.generator.model.family_models import SAMPLES

Q4_K, Q6_K, Q8_0 = (Quantization[name] for name in ("Q4_K", "Q6_K", "Q8_0"))
# rows of whole blocks of Q4_K
SMALL: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
PROMPTS = {"short": [5, 6, 7], "long": [9, 3, 80, 14, 15, 9, 2, 6, 53]}
PARAMS = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True, logprobs=3)
OPTIONS: dict[str, Any] = {"max_batched_tokens": 8, "block_size": 16, "dtype": "float32"}
# as llama.cpp mixes them where a file is called Q4_K_M
MIXED = {"attn_v": Q8_0, "ffn_down": Q8_0, "token_embd": Q8_0}


def write(folder: Path, family: str, kind: str, others: dict[str, Quantization]) -> Path:
    """Return a file of a small random model."""
    sample = SAMPLES[family]
    changes = {**sample.changes, **SMALL, "rope_parameters": None}
    save(replace(sample, changes=changes).build(seed=3), folder / family)
    return convert(folder / family, folder / "model.gguf", Quantization[kind], others)


@pytest.mark.parametrize(
    ("family", "kind", "others"),
    [
        ("llama", "Q4_0", {}),
        ("llama", "Q4_1", {}),
        ("llama", "Q4_K", {}),
        ("llama", "Q4_K", MIXED),
        ("llama", "Q8_0", {}),
        ("qwen2", "Q4_K", MIXED),
    ],
)
def test_a_file_gives_the_tokens_that_it_gives_on_a_cpu(
    family: str, kind: str, others: dict[str, Quantization], tmp_path: Path, device: Device
) -> None:
    """Of one type and of several, with biases too: tokens are equal and probabilities near."""
    path = write(tmp_path, family, kind, others)
    expected = run(on_cpu(path, exact=True, **OPTIONS), PROMPTS, PARAMS)
    actual = run(on_device(path, device, **OPTIONS), PROMPTS, PARAMS)
    # sums of twice as many numbers as the other small models have
    assert_same_outputs(actual, expected, atol=3e-5)


def test_weights_rounded_to_four_bits_give_the_tokens_of_a_cpu(
    tmp_path: Path, device: Device
) -> None:
    """The head's eight bits are of rows here and of groups there, so probabilities are but near."""
    folder = tmp_path / "llama"
    save(replace(SAMPLES["llama"], changes={**SMALL, "rope_parameters": None}).build(3), folder)
    options = {**OPTIONS, "quantization": "int4"}
    expected = run(on_cpu(folder, exact=True, **options), PROMPTS, PARAMS)
    actual = run(on_device(folder, device, **options), PROMPTS, PARAMS)
    for name, (token_ids, logprobs) in expected.items():
        assert actual[name][0] == token_ids
        values, due = ([each.logprob for each in side] for side in (actual[name][1], logprobs))
        torch.testing.assert_close(torch.tensor(values), torch.tensor(due), rtol=0, atol=0.02)


def test_the_log_says_what_became_of_each_type(
    tmp_path: Path, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    """By the names that the file has for them."""
    caplog.set_level("INFO")
    on_device(write(tmp_path, "llama", "Q4_K", MIXED), device, **OPTIONS)
    line = next(each for each in caplog.messages if each.startswith("GPU weights: "))
    parts = line.removeprefix("GPU weights: ").split(", ")
    expected = {"Q4_K packed in 4 bits", "Q8_0 in float32", "Q8_0 of embeddings in float32"}
    assert expected <= set(parts) and len(parts) == len(set(parts))


def test_four_bits_are_counted_as_they_stay(tmp_path: Path) -> None:
    """So that no file is refused for what its floats would take."""
    weights = open_weights(write(tmp_path, "llama", "Q4_K", {}))
    embeddings = 89 * 256
    matrices = 2 * (256 * (256 + 128 + 128 + 256) + 3 * 256 * 256)
    norms = 5 * 256
    head = sum(size.num_values for size in weights.sizes()) - embeddings - matrices - norms
    assert head in (0, embeddings)
    expected = (embeddings + norms) * 2 + (matrices + head) * 144 // 256
    assert weights.num_bytes(torch.bfloat16) == expected


def test_rounded_weights_are_refused_by_half_a_byte_each(tmp_path: Path) -> None:
    """And not by a whole one."""
    folder = tmp_path / "llama"
    save(replace(SAMPLES["llama"], changes={**SMALL, "rope_parameters": None}).build(3), folder)
    num_bytes = open_weights(folder).num_bytes(torch.int8)
    for share, quantization in ((0.9, "int8"), (0.4, "int4")):
        device = HostDevice(num_bytes=int(num_bytes * share))
        with pytest.raises(EngineConfigError, match=r"model: its weights take"):
            on_device(folder, device, **OPTIONS, quantization=quantization)
    with pytest.raises(EngineConfigError, match="kv_cache_bytes"):
        on_device(
            folder, HostDevice(num_bytes=int(num_bytes * 0.6)), **OPTIONS, quantization="int4"
        )
