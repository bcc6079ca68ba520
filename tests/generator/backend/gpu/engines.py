"""Two engines over one checkpoint: the CPU's, and the GPU's on whatever the tests run on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.loading import load_runner
from services.generator.engine import Engine, EngineConfig, SamplingParams, TokenLogprobs
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.loading import load_engine
from services.generator.model.checkpoint.model_files import open_weights, read_config
from tests.generator.backend.gpu.both_samplers import assert_same_logprobs

OPTIONS: dict[str, Any] = {
    "max_num_seqs": 4,
    "max_batched_tokens": 16,
    "kv_cache_bytes": 2**20,
    "seed": 1,
}


def on_cpu(folder: Path, **options: Any) -> Engine:
    """Return the engine as it is without a GPU."""
    return load_engine(EngineConfig(folder, num_threads=1, **{**OPTIONS, **options}))


def on_device(folder: Path, device: Device, **options: Any) -> Engine:
    """Return the engine with the runner of a GPU."""
    config = EngineConfig(folder, device="cuda", **{**OPTIONS, **options})
    shape = read_config(folder)
    runner, num_blocks = load_runner(config, shape, open_weights(folder), device)
    return Engine(config, shape, runner, BlockPool(num_blocks, config.block_size))


Outputs = dict[str, tuple[list[int], list[TokenLogprobs]]]


def assert_same_outputs(actual: Outputs, expected: Outputs, atol: float = 1e-5) -> None:
    """Tokens are equal, and their log-probabilities are near."""
    assert actual.keys() == expected.keys()
    for name, (token_ids, logprobs) in expected.items():
        assert actual[name][0] == token_ids
        assert_same_logprobs(actual[name][1], logprobs, atol)


def run(
    engine: Engine,
    prompts: Mapping[str, Sequence[int]],
    params: SamplingParams,
    before_step: Callable[[], object] = lambda: None,
) -> Outputs:
    """Serve all prompts together; return tokens and log-probabilities."""
    outputs: Outputs = {name: ([], []) for name in prompts}
    for name, prompt in prompts.items():
        engine.add(name, prompt, params)
    while engine.has_work:
        before_step()
        for output in engine.step():
            tokens, logprobs = outputs.setdefault(output.request_id, ([], []))
            tokens += output.token_ids
            logprobs += [*output.prompt_logprobs, *output.logprobs]
        engine.check()
    return outputs
