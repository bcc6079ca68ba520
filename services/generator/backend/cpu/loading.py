"""Loading of a model onto the CPU, with a share of the memory that is left for its KV cache."""

from typing import NamedTuple

import torch

from services.generator.backend.cpu.huge_pages import HugePages
from services.generator.backend.cpu.parts import CpuParts
from services.generator.backend.cpu.runner import CpuRunner
from services.generator.backend.memory import plan_num_blocks, raising_out_of_memory
from services.generator.engine.config import EngineConfig
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.safetensors import Weights
from services.generator.model.decoder import Decoder
from services.generator.model.kv_cache import KVCache, block_bytes
from services.generator.model.loader import build_decoder, compute_dtype


class LoadedRunner(NamedTuple):
    """A runner, and how many blocks its cache has."""

    runner: CpuRunner
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
    model = load_model(config, shape, weights)
    cache = KVCache(shape, num_blocks, config.block_size, model.dtype, HugePages(0).zeros)
    return LoadedRunner(CpuRunner(model, cache), num_blocks)


def load_model(config: EngineConfig, shape: ModelConfig, weights: Weights) -> Decoder:
    """Return the decoder of these weights as the options want it computed.

    Raises ModelConfigError or WeightError, naming the field or tensor at fault.
    """
    dtype = compute_dtype(shape, config.dtype)
    parts = CpuParts(
        shape,
        dtype,
        kernels=config.attention,
        quantization=config.quantization,
        batch_invariant=config.batch_invariant,
        block_size=config.block_size,
    )
    return build_decoder(shape, weights, dtype, parts)
