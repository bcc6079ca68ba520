"""Loading of a model onto the CPU, with a share of the memory that is left for its KV cache."""

import logging
from typing import NamedTuple

import torch

from services.generator.backend.cpu.huge_pages import HugePages
from services.generator.backend.cpu.native import compiler, levels
from services.generator.backend.cpu.parts import CpuParts
from services.generator.backend.cpu.runner import CpuRunner
from services.generator.backend.cpu.weight_bytes import least_bytes, smaller_formats
from services.generator.backend.memory import plan_num_blocks, raising_out_of_memory
from services.generator.engine.config import EngineConfig
from services.generator.engine.errors import EngineConfigError
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.safetensors import Weights
from services.generator.model.decoder import Decoder
from services.generator.model.kv_cache import KVCache, block_bytes
from services.generator.model.loader import build_decoder, compute_dtype

logger = logging.getLogger(__name__)


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
    dtypes = choose_dtypes(shape, config)
    sizes = (shape, weights, dtypes.weights.itemsize, config.quantization)
    num_blocks = plan_num_blocks(
        config,
        shape.context_length,
        block_bytes(shape, config.block_size, dtypes.cache),
        least_bytes(*sizes),
        smaller_formats(*sizes),
    )
    model = load_model(config, shape, weights)
    cache = KVCache(shape, num_blocks, config.block_size, dtypes.cache, HugePages(0).zeros)
    return LoadedRunner(CpuRunner(model, cache), num_blocks)


def load_model(config: EngineConfig, shape: ModelConfig, weights: Weights) -> Decoder:
    """Return the decoder of these weights as the options want it computed.

    Raises ModelConfigError or WeightError, naming the field or tensor at fault.
    """
    dtypes = choose_dtypes(shape, config)
    parts = CpuParts(
        shape,
        dtypes.rows,
        weight_dtype=dtypes.weights,
        kernels=config.attention,
        quantization=config.quantization,
        exact=config.exact,
        batch_invariant=config.batch_invariant,
        block_size=config.block_size,
    )
    model = build_decoder(shape, weights, dtypes.rows, parts)
    logger.info("CPU level %s: %s", compiler.serving_level(), parts.describe())
    return model


def cpu_labels(shape: ModelConfig, config: EngineConfig) -> dict[str, str]:
    """Return the level that serves and what weights are kept in, as a metric's labels."""
    weights = config.quantization or str(choose_dtypes(shape, config).weights)
    return {"level": compiler.serving_level(), "weights": weights.removeprefix("torch.")}


class Dtypes(NamedTuple):
    """What rows are computed in, and what matrices, and keys and values, are kept in."""

    rows: torch.dtype
    weights: torch.dtype
    cache: torch.dtype


def choose_dtypes(shape: ModelConfig, config: EngineConfig) -> Dtypes:
    """Return the dtypes for the level that serves, which is set here where the options name one.

    Where the processor multiplies no bfloat16, rows are float32 and matrices keep their 16 bits; so
    do those of a float16 checkpoint, which any others would lose digits to become. Keys and
    values are float16 beside float32 rows, three bits more than bfloat16 has, where weights have 16
    bits or less too, unless rows shall be exact.
    Raises EngineConfigError for a level that is not here.
    """
    if config.cpu_level is not None:
        try:
            levels.use(config.cpu_level)
        except levels.LevelError as error:
            raise EngineConfigError("cpu_level", str(error)) from error
    kept = compute_dtype(shape, config.dtype, widens_half=shape.dtype != "float16")
    multiplies = kept == torch.bfloat16 and levels.multiplies_bf16()
    if levels.current() is None and not multiplies:
        return Dtypes(torch.float32, torch.float32, torch.float32)
    rows = torch.bfloat16 if multiplies else torch.float32
    is_rounded = kept != torch.float32 or shape.is_quantized or config.quantization is not None
    keeps_half = is_rounded and not config.exact and config.dtype != "float32"
    return Dtypes(rows, kept, torch.float16 if keeps_half and not multiplies else rows)
