"""Engines over the mock model, with a time that passes only where a step sleeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.generator.backend.mock.config import MockConfig
from services.generator.backend.mock.executor import MockExecutor
from services.generator.backend.mock.model import MockModel
from services.generator.engine import Engine, EngineConfig, SamplingParams, StepOutput
from services.generator.engine.kv.block_pool import BlockPool
from tests.generator.shape import shape

VOCAB, EOS, BLOCK = 500, 7, 4
NO_TIMES = MockConfig()


class FakeTime:
    """A clock that its own sleep moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


def make_engine(
    mock: MockConfig = NO_TIMES,
    *,
    time: FakeTime | None = None,
    num_blocks: int = 200,
    **options: Any,
) -> Engine:
    """Return an engine whose blocks hold four tokens."""
    time = time or FakeTime()
    model_config = shape(vocab_size=VOCAB, eos_token_id=EOS)
    config = EngineConfig(
        Path("unused"),
        **{"max_num_seqs": 8, "max_batched_tokens": 64, "block_size": BLOCK, **options},
    )
    executor = MockExecutor(MockModel(VOCAB), mock, time.sleep)
    return Engine(config, model_config, executor, BlockPool(num_blocks, BLOCK), time)


def run(engine: Engine) -> dict[str, list[StepOutput]]:
    """Step until idle; return all outputs by request."""
    outputs: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check()
    return outputs


def generate(engine: Engine, prompt: Sequence[int], **params: Any) -> list[int]:
    """Return the tokens of a request that runs alone; greedy unless changed."""
    engine.add("only", prompt, SamplingParams(**{"temperature": 0.0, **params}))
    return tokens(run(engine)["only"])


def tokens(outputs: Sequence[StepOutput]) -> list[int]:
    """Return all tokens of one request."""
    return [token_id for output in outputs for token_id in output.token_ids]
