"""Warmup: steps run at load, after which nothing is compiled for a request."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from bench.common.checkpoints import write_checkpoint
from services.generator.backend.gpu.device import Device, HostDevice
from services.generator.backend.gpu.warmup import Warmup, warm_up
from services.generator.engine import Engine, SamplingParams
from tests.generator.backend.gpu.engines import Outputs, assert_same_outputs, on_device, run
from tests.generator.backend.gpu.test_engine import SHAPE

# chunks begin behind one or two decodes, tables are one to three blocks wide
PROMPTS = {"a": [5, 6, 7], "b": [8], "c": list(range(20, 55))}
ASKED: tuple[dict[str, Any], ...] = (
    {"max_tokens": 4},
    {"repetition_penalty": 1.2, "logprobs": 3, "max_tokens": 1},
    {"prompt_logprobs": 7, "max_tokens": 1},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Llama of one layer whose heads the kernels take."""
    return write_checkpoint(tmp_path_factory.mktemp("llama"), SHAPE)


def serve(engine: Engine, asked: dict[str, Any]) -> Outputs:
    """Serve the prompts together, each as it asks."""
    params = {"max_tokens": 2, "temperature": 0.0, "ignore_eos": True, **asked}
    return run(engine, PROMPTS, SamplingParams(**params))


@pytest.mark.skipif(torch.cuda.is_available(), reason="HostDevice needs the interpreter")
def test_nothing_is_left_of_a_warmup(folder: Path) -> None:
    """Neither in the cache nor in what the engine serves next."""
    expected, engine = on_device(folder, HostDevice()), on_device(folder, HostDevice())
    runner: Any = engine._runner
    warm_up(runner, engine.config, num_tokens=20)
    assert all(not layer.blocks.count_nonzero() for layer in runner._cache.layers)
    assert_same_outputs(serve(engine, ASKED[1]), serve(expected, ASKED[1]))


def test_steps_stay_within_what_the_engine_has_room_for(folder: Path) -> None:
    """Neither more tokens nor more sequences than the options say, and none beyond a context."""
    for changes in ({}, {"max_num_seqs": 1}, {"max_num_seqs": 1, "max_batched_tokens": 1}):
        config = on_device(folder, HostDevice(), **changes).config
        for chunks in Warmup(config, num_tokens=10).steps():
            assert 1 <= len(chunks) <= config.max_num_seqs
            assert sum(chunk.num_tokens for chunk in chunks) <= config.max_batched_tokens
            assert all(chunk.end <= 10 for chunk in chunks)


@contextmanager
def compiled() -> Iterator[list[str]]:
    """Collect the names of kernels that are compiled, or read from a store of such, within."""
    names: list[str] = []
    knobs: Any = triton.knobs.runtime
    knobs.jit_post_compile_hook = lambda *, fn, **_: names.append(fn.name)
    try:
        yield names
    finally:
        knobs.jit_post_compile_hook = None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_nothing_is_compiled_for_a_request(
    folder: Path, device: Device, dtype: str, quantization: str | None
) -> None:
    """Whatever it asks for, with and without others beside it."""
    engine = on_device(folder, device, dtype=dtype, quantization=quantization)
    with compiled() as names:
        for asked in ASKED:
            serve(engine, asked)
    assert names == []
