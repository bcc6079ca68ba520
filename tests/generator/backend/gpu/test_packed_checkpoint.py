"""Checkpoints of four bits on the GPU's path, packed, against the CPU's, unpacked."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from services.generator.backend.gpu.device import Device
from services.generator.engine import SamplingParams
from services.generator.model.checkpoint.safetensors import Checkpoint
from tests.generator.backend.gpu.both_samplers import assert_same_logprobs
from tests.generator.backend.gpu.engines import on_cpu, on_device, run
from tests.generator.backend.gpu.test_families import SMALL
from tests.generator.model.checkpoint.test_packed_checkpoint import quantise
from tests.generator.model.family_models import SAMPLES

PROMPTS = {"one": [5, 6, 7]}


@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_packed_weights_give_the_tokens_of_unpacked_ones(
    layout: str, tmp_path: Path, device: Device
) -> None:
    """With biases too: tokens are equal and probabilities near; the memory is that of the words."""
    sample = SAMPLES["qwen2"]
    model = replace(sample, changes={**sample.changes, **SMALL, "intermediate_size": 96}).build()
    model.save_pretrained(tmp_path / "qwen2")
    packed, _ = quantise(tmp_path / "qwen2", layout, 32)
    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True, logprobs=3)
    options = {"max_batched_tokens": 8, "block_size": 16}
    expected = run(on_cpu(packed, exact=True, **options), PROMPTS, params)["one"]
    actual = run(on_device(packed, device, **options), PROMPTS, params)["one"]
    assert actual[0] == expected[0]
    assert_same_logprobs(actual[1], expected[1])
    sizes = [
        tensor.numel() * (2 if tensor.is_floating_point() else tensor.itemsize)
        for tensor in load_file(packed / "model.safetensors").values()
    ]
    assert Checkpoint(packed).num_bytes(torch.bfloat16) == sum(sizes)
