"""The beams that transformers finds, in fp32, on random weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from services.generator.engine import EngineConfig, FinishReason, SamplingParams
from services.generator.loading import load_engine


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0])
@pytest.mark.parametrize("width", [2, 4])
def test_the_best_sequences_are_those_of_transformers(
    width: int, length_penalty: float, make_llama: Callable
) -> None:
    """All beams' tokens equal `num_beams` with early_stopping="never", alone and side by side."""
    torch.manual_seed(1)
    model, folder = make_llama(vocab_size=24)
    prompts = [[5, 9, 1, 7, 3], list(range(1, 20)), [2] * 33]
    expected = [reference(model, prompt, width, length_penalty) for prompt in prompts]
    engine = load_engine(EngineConfig(folder, kv_cache_bytes=2**22, num_threads=1))
    params = SamplingParams(
        max_tokens=24,
        n=width,
        beam_width=width,
        length_penalty=length_penalty,
        stop_token_ids=(11,),
        ignore_eos=True,
    )
    for index, prompt in enumerate(prompts):
        engine.add(str(index), prompt, params)
        engine.step()
    sequences: dict[str, list[list[int]]] = {}
    while engine.has_work:
        for output in engine.step():
            ends = [(output.token_ids, output.finish_reason)]
            ends += [(beam.token_ids, beam.finish_reason) for beam in output.other_beams]
            sequences[output.request_id] = [
                [*ids, 11] if reason is FinishReason.STOP else list(ids) for ids, reason in ends
            ]
        engine.check()
    assert [sequences[str(index)] for index in range(len(prompts))] == expected


def reference(model: Any, prompt: list[int], width: int, length_penalty: float) -> list[list[int]]:
    """Return transformers' beams after a prompt, best first."""
    ids = torch.tensor([prompt])
    beams = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False,
        num_beams=width, num_return_sequences=width, length_penalty=length_penalty,
        early_stopping="never", eos_token_id=11, pad_token_id=0,
    )  # fmt: skip
    outputs = []
    for beam in beams[:, len(prompt) :].tolist():
        end = beam.index(11) + 1 if 11 in beam else len(beam)
        outputs.append(beam[:end])
    return outputs
