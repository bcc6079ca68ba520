"""Serves by the GPU's engine on a GPU that is not here; prints a line of JSON for each shape.

    python -m tests.generator.backend.gpu.compiled_launches

Every launch is compiled as it would be there, for its own types, alignments and tiles. Processes of
their own, because the interpreter's switch is read when a kernel is defined.
"""

import json
import logging
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.common.checkpoints import LLAMA_3_8B, QWEN3_0_6B
from bench.common.random_weights import RandomWeights
from services.generator.backend.gpu.device import Call, HostDevice
from services.generator.backend.gpu.loading import load_runner
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.grouped_weight import GROUP_SIZE, GroupedWeight

CAPABILITY = 90
QWEN3: dict[str, Any] = {**QWEN3_0_6B, "num_hidden_layers": 1}
LLAMA3: dict[str, Any] = {**LLAMA_3_8B, "num_hidden_layers": 1, "vocab_size": 32000}
MIXTURE: dict[str, Any] = {
    **QWEN3, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
    "vocab_size": 32000, "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 768,
    "norm_topk_prob": True,
}  # fmt: skip
# layers with a window and without, capped scores, heads of 256
GEMMA2: dict[str, Any] = {
    **QWEN3, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 32000,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 64, "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen3-0.6b": (QWEN3, {}),
    "llama-3-8b": (LLAMA3, {}),
    "llama-3-8b int8": (LLAMA3, {"quantization": "int8"}),
    "llama-3-8b int4": (LLAMA3, {"quantization": "int4"}),
    "llama-3-8b q4_k": (LLAMA3, {}),
    "llama-3-8b fp8": (LLAMA3, {"quantization": "fp8", "kv_cache_dtype": "fp8"}),
    "mixture": (MIXTURE, {}),
    "gemma2": (GEMMA2, {}),
}
# all that serving may do; of prompts as long as the budget, longer, and shorter
PROMPTS = [1, 2, 3, 15, 16, 17, 31, 64, 100, 128, 129, 200, 333]
PARAMS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
    {"temperature": 1.0, "min_p": 0.1, "seed": 3},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.1},
    {"logprobs": 0},
    {"logprobs": 5},
    {"logprobs": 20, "prompt_logprobs": 5},
    {"bad_token_ids": (3,), "logit_bias": ((4, 1.0),), "min_tokens": 2},
    {"allowed_token_ids": (0, 1, 2)},
    {"n": 2},
    {"beam_width": 2},
]


class AbsentDevice(HostDevice):
    """Captures as a GPU does: what is captured was run before. Steps are warmed up."""

    def __init__(self) -> None:
        super().__init__()
        self.compiles = True

    def capture(self, *works: Call) -> list[Call]:
        for work in works:
            work()
        return list(works)


class ZeroWeights(RandomWeights):
    """Takes no time to make."""

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.bfloat16)


class FourBitWeights(ZeroWeights):
    """Has all matrices, the head's too, as a GGUF file has them in Q4_K."""

    def grouped(self, name: str, *shape: int) -> GroupedWeight | None:
        if "embed" in name:
            return None
        rows, columns = shape
        # which no float16 holds
        scales = torch.full((rows, columns // GROUP_SIZE), 1 / 3)
        values = torch.zeros(shape, dtype=torch.int8)
        return GroupedWeight(values, scales, scales, GROUP_SIZE, bits=4)


# of shapes that are not all floats
WEIGHTS = {"llama-3-8b q4_k": FourBitWeights}


def main() -> None:
    """Serve each shape in a process of its own, on as many as there are processors."""
    assert "TRITON_INTERPRET" not in os.environ, "the interpreter cannot compile"
    context = multiprocessing.get_context("spawn")
    with context.Pool(len(os.sched_getaffinity(0)), maxtasksperchild=1) as pool:
        for row in pool.imap(launches, SHAPES):
            print(json.dumps(row), flush=True)


def launches(name: str) -> dict[str, Any]:
    """Return what serving a shape compiles; what it does after loading kept somebody waiting."""
    from triton.runtime.driver import driver

    from bench.gpu.worker import Faults
    from tests.generator.backend.gpu.offline_driver import OfflineDriver, zero_what_is_empty

    # the engine outlives what a step raises, and the runner what it launches ahead: both log it
    faults = Faults()
    logging.getLogger().addHandler(faults)
    zero_what_is_empty()
    absent = OfflineDriver(CAPABILITY)
    driver.set_active(absent)
    engine = load(name)
    num_at_load = len(absent.loaded)
    serve(engine)
    assert not faults.lines, "\n".join(faults.lines)
    return {
        "shape": name,
        "launches": absent.num_launches,
        "at_load": [loaded._asdict() for loaded in absent.loaded[:num_at_load]],
        "serving": [loaded._asdict() for loaded in absent.loaded[num_at_load:]],
    }


def load(name: str) -> Engine:
    """Load an engine of one layer."""
    shape, options = SHAPES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "config.json").write_text(json.dumps(shape))
        config = EngineConfig(
            folder,
            device="cuda",
            max_num_seqs=16,
            max_batched_tokens=128,
            kv_cache_bytes=2**24,
            seed=1,
            **options,
        )
        model = ModelConfig.read(folder)
        weights = WEIGHTS.get(name, ZeroWeights)(shape, "cpu", torch.bfloat16)
        runner, num_blocks = load_runner(config, model, weights, AbsentDevice())
        return Engine(config, model, runner, BlockPool(num_blocks, config.block_size))


def serve(engine: Engine) -> None:
    """Serve prompts of all lengths alone and together, in every way that can be asked for."""
    number = 0
    for together in (1, 2, 5, 16):
        for first in range(0, len(PROMPTS), together):
            for length in PROMPTS[first : first + together]:
                number += 1
                engine.add(f"p{number}", [5] * length, greedy())
            drain(engine)
    for changes in PARAMS:
        for length in (3, 40):
            number += 1
            params = {"max_tokens": 3, "ignore_eos": True, **changes}
            engine.add(f"p{number}", [number] * length, SamplingParams(**params))
        drain(engine)
    for length in (3, 40):
        for changes in PARAMS:
            number += 1
            params = {"max_tokens": 3, "ignore_eos": True, **changes}
            engine.add(f"p{number}", [number] * length, SamplingParams(**params))
    drain(engine)
    assert engine.stats().num_faults == 0


def greedy() -> SamplingParams:
    return SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)


def drain(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


if __name__ == "__main__":
    main()
