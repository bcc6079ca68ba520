"""A mock executor for a checkpoint's folder, of which it needs `config.json` alone."""

from typing import NamedTuple

from services.generator.backend.mock.config import MockConfig
from services.generator.backend.mock.executor import MockExecutor
from services.generator.backend.mock.model import MockModel
from services.generator.engine.config import EngineConfig
from services.generator.engine.errors import EngineConfigError
from services.generator.model.checkpoint.config import ModelConfig

# a million tokens of 16 to a block; each costs the block pool some bytes
MAX_DEFAULT_BLOCKS = 2**16
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class LoadedExecutor(NamedTuple):
    """An executor, and how many blocks the cache has that it does without."""

    executor: MockExecutor
    num_blocks: int


def load_executor(config: EngineConfig, shape: ModelConfig, mock: MockConfig) -> LoadedExecutor:
    """Return an executor with as many blocks as the model's cache would have in the same bytes.

    Raises EngineConfigError where they are too few for one block.
    """
    return LoadedExecutor(
        MockExecutor(MockModel(shape.vocab_size), mock), num_blocks(config, shape)
    )


def num_blocks(config: EngineConfig, shape: ModelConfig) -> int:
    """Return the number of KV blocks: what the bytes hold, or all that full contexts need."""
    if config.kv_cache_bytes is None:
        wanted = config.max_num_seqs * -(-shape.context_length // config.block_size)
        return min(wanted, MAX_DEFAULT_BLOCKS)
    token_bytes = shape.num_layers * 2 * shape.kv_size * _ITEM_BYTES[config.dtype or shape.dtype]
    affordable = config.kv_cache_bytes // (config.block_size * token_bytes)
    if affordable < 1:
        message = f"one block alone takes {config.block_size * token_bytes} bytes"
        raise EngineConfigError("kv_cache_bytes", message)
    return affordable
