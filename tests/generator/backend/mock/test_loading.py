"""A mock engine from a checkpoint's folder without its weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.generator.backend.mock.config import MockConfig
from services.generator.backend.mock.loading import MAX_DEFAULT_BLOCKS, num_blocks
from services.generator.engine import EngineConfig, EngineConfigError
from tests.generator.shape import LLAMA, shape

ROOT = Path(__file__).parents[4]
MOCK = MockConfig()
PROGRAM = """
import sys
from pathlib import Path
import services.generator.__main__
from services.generator.backend.mock.config import MockConfig
from services.generator.engine import EngineConfig, SamplingParams
from services.generator.loading import load_engine

engine = load_engine(EngineConfig(Path(sys.argv[1])), mock=MockConfig())
engine.add("one", [1, 2, 3], SamplingParams(max_tokens=4, logprobs=2))
while engine.has_work:
    engine.step()
print(engine.stats().num_generated_tokens, *{"torch", "numpy", "safetensors"} & sys.modules.keys())
"""


def test_a_replica_needs_neither_weights_nor_torch(tmp_path: Path) -> None:
    """All that its process imports is here, and the folder has a config.json alone."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["4"]


def test_the_bytes_hold_as_many_blocks_as_a_models_cache() -> None:
    """A chosen size is divided by the model's block; else all full contexts fit, up to a limit."""
    llama = shape(max_position_embeddings=64)
    config = EngineConfig(Path("unused"), max_num_seqs=3)
    assert num_blocks(config, llama) == 3 * 4
    assert num_blocks(config, shape(max_position_embeddings=2**30)) == MAX_DEFAULT_BLOCKS
    block_bytes = 16 * 1 * 2 * 8 * 4
    sized = EngineConfig(Path("unused"), kv_cache_bytes=10 * block_bytes + 1)
    assert num_blocks(sized, llama) == 10
    assert (
        num_blocks(EngineConfig(Path("x"), dtype="bfloat16", kv_cache_bytes=block_bytes), llama)
        == 2
    )
    with pytest.raises(EngineConfigError, match="kv_cache_bytes"):
        num_blocks(EngineConfig(Path("unused"), kv_cache_bytes=block_bytes - 1), llama)
