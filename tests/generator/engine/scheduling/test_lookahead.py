"""Lookahead: the next step is planned while one is computed, and holds unless a result differs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.generator.engine import Engine, EngineConfig, FinishReason, SamplingParams, StepOutput
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.kv.block_pool import BlockPool
from tests.generator.engine.fake_executor import FakeExecutor, continuation
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=200)


class Recorder(FakeExecutor):
    """Remembers what was asked for in each step, and what was planned in the one before."""

    def __init__(self) -> None:
        super().__init__(4)
        self.asked: list[list[Chunk]] = []
        self.planned: list[Sequence[Chunk]] = []

    def execute(
        self, chunks: Sequence[Chunk], overlap: Callable[[], Any] = lambda: ()
    ) -> list[ChunkResult]:
        self.asked.append(list(chunks))
        return super().execute(chunks, lambda: self.planned.append(overlap()))

    @property
    def kept(self) -> list[bool]:
        """Whether each step but the first computed the very chunks that were planned."""
        pairs = zip(self.planned, self.asked[1:], strict=False)
        return [list(planned) == asked for planned, asked in pairs]


def make_engine(num_blocks: int = 100, **options: Any) -> tuple[Engine, Recorder]:
    executor = Recorder()
    config = EngineConfig(
        Path("unused"), max_num_seqs=4, max_batched_tokens=16, block_size=4, **options
    )
    return Engine(config, MODEL, executor, BlockPool(num_blocks, 4)), executor


def params(max_tokens: int, **options: Any) -> SamplingParams:
    return SamplingParams(max_tokens, temperature=0, **options)


def run(engine: Engine) -> dict[str, list[StepOutput]]:
    outputs: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check()
    return outputs


def tokens(outputs: list[StepOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


def test_every_step_of_streams_is_planned_in_the_one_before() -> None:
    """Prompt chunks and decodes, to the last token of each, which nothing follows."""
    engine, executor = make_engine()
    engine.add("a", [1] * 40, params(9))
    engine.add("b", [2] * 3, params(30))
    outputs = run(engine)
    assert tokens(outputs["a"]) == continuation([1] * 40, 9)
    assert tokens(outputs["b"]) == continuation([2] * 3, 30)
    # b was admitted beside a's last chunk, which is decided when the step begins
    assert executor.kept.count(False) == 1
    assert executor.planned[-1] == []


def test_a_stop_is_not_planned_and_leaves_nothing_behind() -> None:
    """The planned chunk of a request that ended is not computed, and its blocks are free."""
    engine, executor = make_engine()
    stop = continuation([1, 2, 3], 6)[5]
    assert stop not in continuation([1, 2, 3], 5)
    engine.add("a", [1, 2, 3], params(20, stop_token_ids=(stop,)))
    engine.add("b", [4, 5], params(20))
    outputs = run(engine)
    assert tokens(outputs["a"]) == continuation([1, 2, 3], 5)
    assert outputs["a"][-1].finish_reason is FinishReason.STOP
    assert tokens(outputs["b"]) == continuation([4, 5], 20)
    assert executor.kept.count(False) == 1
    assert engine.stats().num_blocks_used == 0


def test_an_abort_between_steps_drops_what_was_planned() -> None:
    """The others go on as planned."""
    engine, executor = make_engine()
    for name in "abc":
        engine.add(name, [ord(name) % 50] * 5, params(12))
    for _ in range(4):
        engine.step()
    engine.abort("b")
    engine.check()
    outputs = run(engine)
    assert {chunk.request.request_id for chunk in executor.asked[4]} == {"a", "c"}
    assert {each[-1].finish_reason for each in outputs.values()} == {FinishReason.LENGTH}


def test_a_request_that_arrives_while_a_step_runs_is_admitted_with_the_next() -> None:
    """A plan delays no request: admission is decided when the step begins."""
    engine, executor = make_engine()
    engine.add("a", [1] * 5, params(12))
    engine.step()
    engine.step()
    engine.add("b", [2] * 5, params(3))
    engine.step()
    assert [chunk.request.request_id for chunk in executor.asked[2]] == ["a", "b"]


@pytest.mark.parametrize(
    ("num_blocks", "options"),
    [(100, {"n": 3}), (100, {"prompt_logprobs": 0}), (8, {})],
    ids=["forks", "prompt scores", "few blocks"],
)
def test_nothing_is_planned_where_results_decide_more(
    num_blocks: int, options: dict[str, Any]
) -> None:
    """Prompts that others fork from, scores that are still wanted, and blocks that may be short."""
    engine, executor = make_engine(num_blocks)
    engine.add("a", [1] * 18, params(4, **options))
    engine.step()
    assert executor.planned == [()]
    assert tokens(run(engine)["a"]) == continuation([1] * 18, 4)
