"""Loading of a model onto a GPU; its KV cache gets what weights and steps leave."""

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import torch

from services.generator.backend.gpu.block_tables import DeviceBlockTables
from services.generator.backend.gpu.decode_graphs import DecodeGraphs
from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.layers.parts import GpuParts
from services.generator.backend.gpu.runner import GpuRunner
from services.generator.backend.gpu.sampling.token_sampler import TokenSampler
from services.generator.backend.gpu.step_inputs import Layout, StepInputs
from services.generator.backend.gpu.triton.checks import KernelError, require_capability
from services.generator.backend.gpu.warmup import warm_up
from services.generator.backend.memory import (
    MemoryBudget,
    check_weights,
    mib,
    num_blocks_within,
    raising_out_of_memory,
)
from services.generator.engine.config import EngineConfig
from services.generator.engine.errors import EngineConfigError
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.safetensors import Weights
from services.generator.model.decoder import Decoder
from services.generator.model.kv_cache import KVCache, block_bytes
from services.generator.model.loader import build_decoder, compute_dtype

# of what is free beside weights and the largest step: CUDA graphs and penalties need some later
_FREE_SHARE = 0.9


logger = logging.getLogger(__name__)


class LoadedRunner(NamedTuple):
    """A runner, and how many blocks its cache has."""

    runner: GpuRunner
    num_blocks: int


@raising_out_of_memory()
@torch.inference_mode()
def load_runner(
    config: EngineConfig, shape: ModelConfig, weights: Weights, device: Device
) -> LoadedRunner:
    """Load the weights, measure the largest step, allocate the cache, capture CUDA graphs, warm up.

    Raises ModelConfigError for a model that the kernels do not take, and EngineConfigError for
    one, or a cache, that does not fit, or a quantization that the device does not have.
    """
    dtype = compute_dtype(shape, config.dtype, widens_half=False)
    cache_dtype = _cache_dtype(config, dtype, device)
    before_bytes = device.free_bytes()
    model = _load_model(config, shape, weights, dtype, device)
    weight_bytes = before_bytes - device.free_bytes()
    num_blocks = _plan_num_blocks(config, model, cache_dtype, weight_bytes, device)
    cache = KVCache(shape, num_blocks, config.block_size, cache_dtype, _zeros_on(device))
    longest = min(-(-shape.context_length // config.block_size), num_blocks)
    inputs = StepInputs(device, _capacity(config, longest))
    sampler = TokenSampler(device, shape.vocab_size, _max_rows(config))
    graphs = None
    if config.graphs:
        graphs = DecodeGraphs(model, cache, device, inputs, config.max_num_seqs, longest)
    runner = GpuRunner(model, cache, device, inputs, sampler, graphs)
    if device.compiles:
        warm_up(runner, config, min(shape.context_length, num_blocks * config.block_size))
        device.release()
    return LoadedRunner(runner, num_blocks)


def _load_model(
    config: EngineConfig, shape: ModelConfig, weights: Weights, dtype: torch.dtype, device: Device
) -> Decoder:
    least = _least_bytes(weights, dtype, config.quantization)
    smaller = {
        f"quantization {name}": size
        for name in ("int8", "int4")
        if (size := _least_bytes(weights, dtype, name)) < least
    }
    check_weights(least, device.free_bytes(), smaller)
    parts = GpuParts(shape, device.device, dtype, config.quantization)
    try:
        model = build_decoder(shape, weights, dtype, parts)
    except KernelError as error:
        field = "quantization" if config.quantization else "model"
        raise EngineConfigError(field, str(error)) from error
    device.release()
    logger.info("GPU weights: %s", parts.describe())
    return model


def _least_bytes(weights: Weights, dtype: torch.dtype, quantization: str | None) -> int:
    """Return what weights take at least: quantised here a byte each, or half of one."""
    if quantization is None:
        return weights.num_bytes(dtype)
    return weights.num_bytes(torch.int8) // (2 if quantization == "int4" else 1)


def _plan_num_blocks(
    config: EngineConfig,
    model: Decoder,
    cache_dtype: torch.dtype,
    weight_bytes: int,
    device: Device,
) -> int:
    """Return the number of KV blocks beside weights, which are loaded, and the largest step."""
    step_bytes = device.peak_bytes(lambda: _largest_step(config, model, device))
    device.release()
    return num_blocks_within(
        config,
        model.config.context_length,
        block_bytes(model.config, config.block_size, cache_dtype),
        MemoryBudget(
            device.free_bytes() - step_bytes,
            _FREE_SHARE,
            f"beside weights of {mib(weight_bytes)} and a step's largest {mib(step_bytes)}",
        ),
    )


def _cache_dtype(config: EngineConfig, dtype: torch.dtype, device: Device) -> torch.dtype:
    if config.kv_cache_dtype is None:
        return dtype
    try:
        require_capability("fp8", device.device, (9, 0))
    except KernelError as error:
        raise EngineConfigError("kv_cache_dtype", str(error)) from error
    return torch.float8_e4m3fn


def _zeros_on(device: Device) -> Callable[..., torch.Tensor]:
    return functools.partial(torch.zeros, device=device.device)


def _max_rows(config: EngineConfig) -> int:
    """Return the most rows that are sampled in a step: of decodes, drafts and forks."""
    return config.max_num_seqs * (1 + config.speculative_tokens)


def _capacity(config: EngineConfig, longest: int) -> Layout:
    """Return the most of everything that a step may have, in blocks of a sequence `longest`."""
    sequences = min(config.max_batched_tokens, _max_rows(config))
    return Layout(
        num_tokens=config.max_batched_tokens,
        num_sequences=sequences,
        num_chunks=config.max_num_seqs,
        num_rows=config.max_batched_tokens + _max_rows(config),
        num_blocks=longest,
    )


def _largest_step(config: EngineConfig, model: Decoder, device: Device) -> None:
    """Compute one prompt of a whole budget, and logits for as many rows as are sampled."""
    count, where = config.max_batched_tokens, device.device
    num_blocks = -(-count // config.block_size)
    cache = KVCache(model.config, 1, config.block_size, model.dtype, _zeros_on(device))
    positions = torch.arange(count, device=where) % model.config.context_length
    tables = DeviceBlockTables(
        slots=torch.full_like(positions, -1),
        lengths=torch.full((1,), count, dtype=torch.int32, device=where),
        block_table=torch.zeros(1, num_blocks, dtype=torch.int32, device=where),
        num_decodes=0,
        chunk_starts=torch.tensor([0, count], dtype=torch.int32, device=where),
    )
    rows = positions[: _max_rows(config)]
    prepared = model.prepare(positions, tables, cache, rows)
    hidden = model.hidden_states(torch.zeros_like(positions), prepared, cache)
    # sampling reads them in float32
    model.logits(hidden[: len(rows)]).float()
