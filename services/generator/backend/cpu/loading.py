"""Loads a model onto the CPU, and gives its cache a share of the memory that is left."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from services.generator.backend.cpu.huge_pages import HugePages
from services.generator.backend.cpu.parts import CpuParts
from services.generator.backend.cpu.runner import Runner
from services.generator.backend.memory import plan_num_blocks, raising_out_of_memory
from services.generator.engine.config import EngineConfig
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.safetensors import Checkpoint, Weights
from services.generator.model.decoder import Decoder
from services.generator.model.kv_cache import KVCache, block_bytes
from services.generator.model.loader import build_decoder, compute_dtype


class LoadedRunner(NamedTuple):
    """A runner, and how many blocks its cache has."""

    runner: Runner
    num_blocks: int


@raising_out_of_memory()
def load_runner(config: EngineConfig, shape: ModelConfig, weights: Weights) -> LoadedRunner:
    """Load the weights and allocate the cache, once it is known that both fit into the memory.

    Raises ModelConfigError or WeightError for the folder's faults, EngineConfigError where it
    does not fit.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    dtype = compute_dtype(shape, config.dtype)
    num_blocks = plan_num_blocks(
        config,
        shape.context_length,
        block_bytes(shape, config.block_size, dtype),
        weights.num_parameters * dtype.itemsize,
    )
    model = load_model(
        config.model,
        config.dtype,
        config.attention,
        config.quantization,
        config.batch_invariant,
        config.block_size,
        weights,
    )
    zeros = HugePages(0).zeros
    cache = KVCache(model.config, num_blocks, config.block_size, model.dtype, zeros)
    return LoadedRunner(Runner(model, cache), num_blocks)


def load_model(
    folder: Path,
    dtype: str | None = None,
    attention_backend: str = "auto",
    quantization: str | None = None,
    batch_invariant: bool = True,
    block_size: int = 16,
    weights: Weights | None = None,
) -> Decoder:
    """Read a folder with `config.json` and safetensors; `dtype` overrides the checkpoint's.

    `attention_backend` torch keeps to torch's operations where auto would take compiled ones.
    `quantization` int8 rounds all matrices but embeddings and routers. Where `batch_invariant`,
    a token's products and activations have the same bits beside any others. `block_size` is that of
    the caches it will meet. `weights` take the place of the folder's.

    Raises ModelConfigError or WeightError, naming the field or tensor at fault.
    """
    config = ModelConfig.read(folder)
    compute = compute_dtype(config, dtype)
    parts = CpuParts(
        config,
        compute,
        backend=attention_backend,
        quantization=quantization,
        batch_invariant=batch_invariant,
        block_size=block_size,
    )
    return build_decoder(config, weights or Checkpoint(folder), compute, parts)
