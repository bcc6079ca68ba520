"""Engines over the fake executor that run until they are idle."""

from pathlib import Path

from services.generator.engine import (
    Engine,
    EngineConfig,
    StepOutput,
)
from services.generator.engine.kv.block_pool import BlockPool
from tests.generator.engine.fake_executor import FakeExecutor
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=64, eos_token_id=49)


def make_engine(executor: FakeExecutor, num_blocks: int = 40, max_num_seqs: int = 6) -> Engine:
    config = EngineConfig(
        Path("unused"),
        max_num_seqs=max_num_seqs,
        max_batched_tokens=16,
        block_size=4,
        output_quantile=0.0,
    )
    return Engine(config, MODEL, executor, BlockPool(num_blocks, 4))


def run(engine: Engine) -> dict[str, list[StepOutput]]:
    """Step until idle; return all outputs by sequence."""
    outputs: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check()
    assert engine.stats().num_blocks_used == 0
    return outputs


def tokens(outputs: list[StepOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]
