"""Makes what the engine runs on: the model and its cache, on the device that was chosen."""

from __future__ import annotations

from typing import NamedTuple

import torch

from services.generator.engine.chunk_executor import Executor
from services.generator.engine.engine_config import EngineConfig
from services.generator.engine.errors import EngineConfigError
from services.generator.engine.memory import is_out_of_memory, plan_num_blocks
from services.generator.engine.runner import Runner
from services.generator.model import KVCache, ModelConfig, load_model
from services.generator.model.checkpoint import Checkpoint, Weights
from services.generator.model.kv_cache import block_bytes
from services.generator.model.loader import compute_dtype


class Loaded(NamedTuple):
    """An executor, and how many blocks its cache has."""

    executor: Executor
    model_config: ModelConfig
    num_blocks: int


def load_executor(config: EngineConfig, weights: Weights | None) -> Loaded:
    """Read the model and allocate the cache, once it is known that both fit into the memory.

    `weights` take the place of the folder's. Raises ModelError for the folder's faults and
    EngineConfigError for the options'.
    """
    shape = ModelConfig.read(config.model)
    weights = weights or Checkpoint(config.model)
    try:
        if config.device == "cuda":
            return _on_cuda(config, shape, weights)
        return _on_cpu(config, shape, weights)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise EngineConfigError(
            "model",
            "does not fit into the memory that is left; "
            "fewer max_batched_tokens or max_num_seqs take less",
        ) from error


def _on_cpu(config: EngineConfig, shape: ModelConfig, weights: Weights) -> Loaded:
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
    cache = KVCache(model.config, num_blocks, config.block_size, model.dtype)
    return Loaded(Runner(model, cache), model.config, num_blocks)


def _on_cuda(config: EngineConfig, shape: ModelConfig, weights: Weights) -> Loaded:
    if not torch.cuda.is_available():
        raise EngineConfigError("device", "is cuda, and torch finds no such device")
    try:
        # Triton is not to be had on every system that a CPU serves on
        from services.generator.gpu.device import CudaDevice
        from services.generator.gpu.loading import load_runner
    except ImportError as error:
        raise EngineConfigError("device", f"is cuda, and {error.name} is missing") from error
    runner, num_blocks = load_runner(config, shape, weights, CudaDevice())
    return Loaded(runner, shape, num_blocks)
