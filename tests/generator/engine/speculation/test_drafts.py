"""Drafts inside the engine: tokens arrive sooner, and nothing else about them changes."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.generator.engine import Engine, EngineConfig, FinishReason, SamplingParams, StepOutput
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.kv.block_pool import BlockPool
from tests.generator.engine.fake_executor import FakeExecutor, continuation, repeating_token
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=256)
CYCLE = [1, 2, 3, 4, 5, 6]


def cycling_token(token_ids: Sequence[int]) -> int:
    """Return the token after the last one in an endless cycle."""
    return token_ids[-1] % len(CYCLE) + 1


class Recorder(FakeExecutor):
    """Remembers how many drafts each chunk of each step had."""

    def __init__(self, **options: Any) -> None:
        super().__init__(4, **options)
        self.steps: list[dict[str, int]] = []

    def execute(
        self, chunks: Sequence[Chunk], overlap: Callable[[], object] = lambda: None
    ) -> list[ChunkResult]:
        self.steps.append({c.request.request_id: len(c.drafts) for c in chunks})
        return super().execute(chunks, overlap)


def make_engine(
    executor: FakeExecutor, num_blocks: int = 60, speculative_tokens: int = 7, **options: Any
) -> Engine:
    """Make an engine whose steps all take as long, as it knows, so that drafts cost nothing."""
    config = EngineConfig(
        Path("unused"),
        block_size=4,
        speculative_tokens=speculative_tokens,
        **{"max_num_seqs": 4, "max_batched_tokens": 40, **options},
    )
    clock = itertools.count().__next__
    pool = BlockPool(num_blocks, 4)
    engine = Engine(config, MODEL, executor, pool, clock=lambda: float(clock()))
    for num_rows in (1, 1000):
        engine._scheduler.speculation.observe_step(num_rows, 1.0)
    return engine


def run(engine: Engine) -> dict[str, list[StepOutput]]:
    """Step until idle; return all outputs by request."""
    outputs: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check()
    return outputs


def tokens(outputs: list[StepOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


def greedy(max_tokens: int, **changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, **changes)


def test_a_step_brings_the_accepted_drafts_and_one_token_more() -> None:
    """A text that repeats itself comes eight tokens at a time."""
    engine = make_engine(Recorder(next_token=cycling_token))
    engine.add("a", CYCLE * 2, greedy(20))
    outputs = run(engine)["a"]
    assert [len(output.token_ids) for output in outputs] == [1, 8, 8, 3]
    assert tokens(outputs) == (CYCLE * 4)[:20]
    assert [output.num_output_tokens for output in outputs] == [1, 9, 17, 20]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    stats = engine.stats()
    assert (stats.num_drafts, stats.num_draft_tokens, stats.num_accepted_tokens) == (3, 16, 16)
    assert stats.num_accepted_tokens_per_pos == (3, 3, 2, 2, 2, 2, 2)
    assert stats.num_generated_tokens == 20
    assert stats.num_computed_tokens == 12 + 8 + 8 + 3


def test_wrong_drafts_change_nothing() -> None:
    """Tokens that are hard to guess are those that come without drafts, rejected ones left out."""
    prompt = [1, 2, 3, 1, 2, 9, 1, 2]
    engine = make_engine(Recorder())
    engine.add("a", prompt, greedy(60))
    assert tokens(run(engine)["a"]) == continuation(prompt, 60)


def test_a_stop_inside_a_run_ends_it() -> None:
    """What was accepted after a stop token is neither delivered nor counted."""
    engine = make_engine(Recorder(next_token=cycling_token))
    engine.add("a", CYCLE * 2, greedy(20, stop_token_ids=(4,), logprobs=0))
    outputs = run(engine)["a"]
    assert [list(output.token_ids) for output in outputs] == [[1], [2, 3]]
    assert [len(output.logprobs) for output in outputs] == [1, 2]
    assert outputs[-1].finish_reason is FinishReason.STOP
    assert outputs[-1].num_output_tokens == 4
    assert engine.stats().num_generated_tokens == 4


def test_a_stop_inside_a_run_may_be_included() -> None:
    """The stop token among accepted drafts is the last that is delivered."""
    engine = make_engine(Recorder(next_token=cycling_token))
    asked = greedy(20, stop_token_ids=(4,), logprobs=0, include_stop_token=True)
    engine.add("a", CYCLE * 2, asked)
    outputs = run(engine)["a"]
    assert [list(output.token_ids) for output in outputs] == [[1], [2, 3, 4]]
    assert [len(output.logprobs) for output in outputs] == [1, 3]
    assert [output.start is not None for output in outputs] == [True, False]


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_max_tokens_is_never_passed(max_tokens: int) -> None:
    """No draft is tried for which there is no place in the output."""
    executor = Recorder(next_token=cycling_token)
    engine = make_engine(executor)
    engine.add("a", CYCLE * 2, greedy(max_tokens, ignore_eos=True))
    outputs = run(engine)["a"]
    assert tokens(outputs) == (CYCLE * 2)[:max_tokens]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert engine.stats().num_computed_tokens == 12 + max_tokens - 1


def test_each_token_has_its_own_logprobs() -> None:
    """A step's tokens are described one by one, in their order."""
    engine = make_engine(Recorder(next_token=cycling_token))
    engine.add("a", CYCLE * 2, greedy(20, logprobs=0))
    for output in run(engine)["a"]:
        assert tuple(one.token_id for one in output.logprobs) == output.token_ids


def test_drafts_take_what_prompts_leave_of_the_budget() -> None:
    """A step never computes more than its tokens, and a prompt gets all that decodes leave."""
    executor = Recorder(next_token=cycling_token)
    engine = make_engine(executor, max_batched_tokens=12)
    engine.add("a", CYCLE * 2, greedy(60))
    engine.step()
    engine.add("b", [9] * 30, greedy(1))
    sizes = []
    while engine.stats().num_running + engine.stats().num_waiting > 1 or not sizes:
        engine.step()
        sizes.append((executor.steps[-1]["a"], engine.stats().last_step_tokens))
    assert sizes == [(0, 12), (0, 12), (3, 12)]


def test_nobody_gives_way_to_a_draft() -> None:
    """In a pool without room for drafts they are cut to the blocks that are held or free."""
    executor = Recorder(next_token=cycling_token)
    engine = make_engine(executor, num_blocks=8, output_quantile=0.0)
    for name in ("a", "b"):
        engine.add(name, CYCLE + CYCLE[:5], greedy(5))
    outputs = run(engine)
    assert [tokens(outputs[name]) for name in ("a", "b")] == [[6, 1, 2, 3, 4]] * 2
    assert engine.stats().num_preemptions == 0
    assert max(step.get("a", 0) for step in executor.steps) == 3


def test_blocks_of_rejected_drafts_are_given_back() -> None:
    """Between steps a request holds no more than without drafts, where one step is planned."""
    held = []
    for speculative_tokens in (0, 7):
        executor = Recorder(next_token=repeating_token)
        engine = make_engine(executor, speculative_tokens=speculative_tokens)
        engine.add("a", [3] * 6, greedy(100))
        used = {}
        while engine.has_work:
            engine.step()
            used[engine.stats().num_generated_tokens] = engine.stats().num_blocks_used
        held.append(used)
    assert engine.stats().num_draft_tokens > engine.stats().num_accepted_tokens
    assert all(used <= held[0][num_tokens] for num_tokens, used in held[1].items())


def test_drafts_in_flight_do_not_cost_a_step() -> None:
    """How far they bring their request is not planned, so every step has work."""
    executor = Recorder(next_token=cycling_token)
    engine = make_engine(executor)
    engine.add("a", CYCLE * 2, greedy(40))
    num_steps = 0
    while engine.has_work:
        engine.step()
        num_steps += 1
    assert engine.stats().num_accepted_tokens > 0
    assert len(executor.steps) == num_steps


def test_accepted_tokens_are_a_prefix_for_others() -> None:
    """The blocks of an output that came by drafts are hit, and hold what they say."""
    engine = make_engine(Recorder(next_token=cycling_token))
    engine.add("a", CYCLE * 2, greedy(20))
    run(engine)
    engine.add("b", (CYCLE * 6)[:32], greedy(4))
    last = run(engine)["b"][-1]
    assert last.num_cached_tokens == 28


def test_preempted_requests_lose_nothing() -> None:
    """With too few blocks and drafts in flight every request ends with its tokens."""
    executor = Recorder(next_token=repeating_token)
    engine = make_engine(executor, num_blocks=14, output_quantile=0.0)
    prompts = {str(n): [n] * 6 for n in range(4)}
    for name, prompt in prompts.items():
        engine.add(name, prompt, greedy(40))
    outputs = run(engine)
    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.num_accepted_tokens > 0
    for name, prompt in prompts.items():
        assert tokens(outputs[name]) == continuation(prompt, 40, repeating_token)


def test_an_abort_between_runs_frees_all() -> None:
    """A request that goes while it is guessed for leaves neither blocks nor an index."""
    engine = make_engine(Recorder(next_token=cycling_token))
    engine.add("a", CYCLE * 2, greedy(60))
    engine.step()
    engine.step()
    assert engine.stats().num_drafts == 1
    output = engine.abort("a")
    assert output is not None
    assert output.num_output_tokens == 9
    assert engine.stats().num_blocks_used == 0
    engine.check()


def test_a_failure_among_drafts_ends_only_its_request() -> None:
    """A request that fails while it has drafts taints its blocks, the drafts' too."""
    executor = Recorder(next_token=cycling_token)
    engine = make_engine(executor)
    engine.add("bad", CYCLE * 2, greedy(60))
    engine.add("good", CYCLE * 2 + [1], greedy(20))
    engine.step()
    executor.fails = lambda chunk: chunk.request.request_id == "bad" and len(chunk.drafts) > 0
    outputs = run(engine)
    assert outputs["bad"][-1].finish_reason is FinishReason.ERROR
    assert tokens(outputs["good"])[-1] == cycling_token(tokens(outputs["good"])[-2:-1])
    assert engine.stats().num_blocks_used == 0


def test_a_target_step_time_holds_for_drafts() -> None:
    """Drafts that would make the step longer than its target are not tried."""
    now_s = 0.0

    class Timed(Recorder):
        def execute(
            self, chunks: Sequence[Chunk], overlap: Callable[[], object] = lambda: None
        ) -> list[ChunkResult]:
            nonlocal now_s
            now_s += 1.0 + 0.1 * sum(chunk.num_tokens for chunk in chunks)
            return super().execute(chunks, overlap)

    executor = Timed(next_token=cycling_token)
    config = EngineConfig(
        Path("unused"), max_num_seqs=4, block_size=4, speculative_tokens=7, target_step_s=1.45
    )
    engine = Engine(config, MODEL, executor, BlockPool(60, 4), clock=lambda: now_s)
    engine.add("a", CYCLE * 2, greedy(200))
    run(engine)
    assert [step["a"] for step in executor.steps[-20:-1]] == [3] * 19
