"""Loading of an engine: the model, its cache and what computes, on the device that was chosen.

The only module that knows the CPU and the GPU; each is imported where it is chosen.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.generator.backend.mock.config import MockConfig
from services.generator.engine import Engine, EngineConfig, EngineConfigError
from services.generator.engine.errors import OutOfMemoryError
from services.generator.engine.executor import Executor
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.model_files import open_weights, read_config

if TYPE_CHECKING:
    from services.generator.model.checkpoint.safetensors import Weights

logger = logging.getLogger(__name__)


def load_engine(
    config: EngineConfig,
    clock: Callable[[], float] = time.monotonic,
    weights: "Weights | None" = None,
    mock: MockConfig | None = None,
) -> Engine:
    """Read the model and allocate the cache, once it is known that both fit into the memory.

    Deadlines and step times are by `clock`; `weights` take the place of the folder's. With
    `mock` nothing is read but `config.json`, and torch is not imported.

    Raises ModelError for the folder's faults and EngineConfigError for the options'.
    """
    started_s = time.monotonic()
    shape = read_config(config.model)
    if mock is None:
        executor, num_blocks = _load_runner(config, shape, weights)
    else:
        executor, num_blocks = _mock(config, shape, mock)
    pool = BlockPool(num_blocks, config.block_size)
    engine = Engine(config, shape, executor, pool, clock)
    logger.info("loaded %s in %.2f s: %r", config.model, time.monotonic() - started_s, engine)
    return engine


def cpu_labels(config: EngineConfig) -> dict[str, str]:
    """Return what a CPU computes with, `level` and `weights`; ModelError as when loading."""
    from services.generator.backend.cpu import loading

    return loading.cpu_labels(read_config(config.model), config)


def _load_runner(
    config: EngineConfig, shape: ModelConfig, weights: "Weights | None"
) -> tuple[Executor, int]:
    """Return what computes, and how many blocks its cache has."""
    load = _on_cuda if config.device == "cuda" else _on_cpu
    try:
        return load(config, shape, weights or open_weights(config.model))
    except OutOfMemoryError as error:
        raise EngineConfigError(
            "model",
            "does not fit into the memory that is left; "
            "fewer max_batched_tokens or max_num_seqs take less",
        ) from error


def _mock(config: EngineConfig, shape: ModelConfig, mock: MockConfig) -> tuple[Executor, int]:
    from services.generator.backend.mock.loading import load_executor

    return load_executor(config, shape, mock)


def _on_cpu(config: EngineConfig, shape: ModelConfig, weights: "Weights") -> tuple[Executor, int]:
    from services.generator.backend.cpu.loading import load_runner

    return load_runner(config, shape, weights)


def _on_cuda(config: EngineConfig, shape: ModelConfig, weights: "Weights") -> tuple[Executor, int]:
    import torch

    if not torch.cuda.is_available():
        raise EngineConfigError("device", "is cuda, and torch finds no such device")
    try:
        # Triton is not to be had on every system that a CPU serves on
        from services.generator.backend.gpu.device import CudaDevice
        from services.generator.backend.gpu.loading import load_runner
    except ImportError as error:
        raise EngineConfigError("device", f"is cuda, and {error.name} is missing") from error
    return load_runner(config, shape, weights, CudaDevice())
