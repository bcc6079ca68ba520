"""Every family gives on the GPU's path what transformers and our CPU give, in float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.generator.backend.gpu.device import Device
from services.generator.engine import SamplingParams
from tests.generator.backend.gpu.both_samplers import assert_same_logprobs
from tests.generator.backend.gpu.engines import on_cpu, on_device, run
from tests.generator.model.family_models import GEMMA3, SAMPLES

SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
WINDOW = 4
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": LLAMA3, "num_key_value_heads": 2},
    "qwen2": {"sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"head_dim": 64},
    "qwen3_moe": {"head_dim": 64},
    "mixtral": {"sliding_window": WINDOW},
    "gemma2": {"head_dim": 64, "sliding_window": WINDOW},
    "gemma3": {**GEMMA3, "head_dim": 80, "sliding_window": WINDOW, "sliding_window_pattern": 2},
    "phi3": {"sliding_window": WINDOW},
    "gpt2": {},
}
PROMPTS = {"short": [5, 6, 7], "long": [9, 3, 80, 14, 15, 9, 2, 6, 53]}


@pytest.mark.parametrize("name", CHANGES)
def test_a_family_is_served_as_on_the_cpu(name: str, tmp_path: Path, device: Device) -> None:
    """Tokens are equal and probabilities near, for a prompt in chunks beside a stream."""
    sample = SAMPLES[name]
    model = replace(sample, changes={**sample.changes, **SMALL, **CHANGES[name]}).build(seed=3)
    model.save_pretrained(tmp_path)
    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True, logprobs=3)
    options = {"max_batched_tokens": 8, "block_size": 16}
    expected = run(on_cpu(tmp_path, **options), PROMPTS, params)
    actual = run(on_device(tmp_path, device, **options), PROMPTS, params)
    for prompt, token_ids in PROMPTS.items():
        assert actual[prompt][0] == expected[prompt][0] == greedy(model, token_ids, 2)
        assert_same_logprobs(actual[prompt][1], expected[prompt][1])


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """Return what transformers' model continues a prompt with."""
    token_ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            token_ids.append(int(model.eval()(torch.tensor([token_ids])).logits[0, -1].argmax()))
    return token_ids[len(prompt) :]
