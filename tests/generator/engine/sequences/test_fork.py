"""Sequences that go on from one prompt, and the copies they make before they write."""

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.generator.engine import (
    Engine,
    EngineConfig,
    FinishReason,
    RequestError,
    SamplingParams,
    StepOutput,
)
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sequences.fork import CopyOnWrite, fork, sequence_seed
from tests.generator.engine.fake_executor import FakeExecutor, best_beams, continuation
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=64, eos_token_id=49)
FOUR = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, n=4)
BEAMS = SamplingParams(max_tokens=6, ignore_eos=True, n=2, beam_width=3)


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor(4)


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


def test_the_prompt_is_computed_once(executor: FakeExecutor) -> None:
    """Four sequences of a prompt cost its tokens once, its partly filled last block included."""
    engine = make_engine(executor)
    engine.add("a", range(10), FOUR)
    outputs = run(engine)
    assert engine.stats().num_computed_tokens == 10 + 4 * 5
    names = ["a", "a/1", "a/2", "a/3"]
    assert {name: tokens(outputs[name]) for name in names} == {
        name: continuation(range(10), 6, branch=branch) for branch, name in enumerate(names)
    }
    assert engine.stats().outcomes == {FinishReason.LENGTH: 4}


def test_all_but_the_last_writer_copy_the_shared_block(executor: FakeExecutor) -> None:
    """The last block is copied by each sequence that writes while others hold it."""
    engine = make_engine(executor)
    engine.add("a", range(10), FOUR)
    engine.step()
    assert engine.stats().num_blocks_used == 3
    engine.step()
    assert len(executor.copied) == 3
    assert len({source for source, _ in executor.copied}) == 1
    assert engine.stats().num_blocks_used == 2 + 4
    run(engine)
    assert len(executor.copied) == 3


def test_a_full_last_block_is_not_copied(executor: FakeExecutor) -> None:
    """A prompt that ends with its block leaves nothing to copy."""
    engine = make_engine(executor)
    engine.add("a", range(8), FOUR)
    run(engine)
    assert executor.copied == []


@pytest.mark.parametrize("name", ["a", "a/2"])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 4])
def test_one_sequence_may_be_aborted(executor: FakeExecutor, name: str, num_steps: int) -> None:
    """Whichever ends, before the prompt, in its midst or after it, the others are not touched."""
    engine = make_engine(executor)
    engine.add("a", range(20), FOUR)
    outputs: dict[str, list[StepOutput]] = {}
    for _ in range(num_steps):
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    ended = engine.abort(name)
    assert ended is not None and ended.finish_reason is FinishReason.ABORT
    for other, told in run(engine).items():
        outputs.setdefault(other, []).extend(told)
    for branch, other in enumerate(["a", "a/1", "a/2", "a/3"]):
        if other != name:
            assert tokens(outputs[other]) == continuation(range(20), 6, branch=branch)
    assert engine.stats().outcomes == {FinishReason.ABORT: 1, FinishReason.LENGTH: 3}


def test_preempted_sequences_tell_the_same(executor: FakeExecutor) -> None:
    """Where the pool is too small for all, some compute again, and nobody's tokens change."""
    engine = make_engine(executor, num_blocks=6)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, n=4)
    engine.add("a", range(10), params)
    outputs = run(engine)
    assert engine.stats().num_preemptions > 0
    for branch, name in enumerate(["a", "a/1", "a/2", "a/3"]):
        assert tokens(outputs[name]) == continuation(range(10), 12, branch=branch)


def test_a_failed_sequence_ends_alone(executor: FakeExecutor) -> None:
    """A fault in one sequence leaves those that share its blocks alone."""
    engine = make_engine(executor)
    executor.fails = lambda chunk: chunk.request.request_id == "a/1"
    engine.add("a", range(10), FOUR)
    outputs = run(engine)
    assert outputs["a/1"][-1].finish_reason is FinishReason.ERROR
    assert tokens(outputs["a/3"]) == continuation(range(10), 6, branch=3)


def test_a_request_whose_prompt_fails_leaves_its_followers(executor: FakeExecutor) -> None:
    """Those that waited for a prompt compute it themselves when its sequence fails."""
    engine = make_engine(executor)
    executor.fails = lambda chunk: chunk.request.request_id == "a"
    engine.add("a", range(10), FOUR)
    outputs = run(engine)
    assert outputs["a"][-1].finish_reason is FinishReason.ERROR
    assert tokens(outputs["a/3"]) == continuation(range(10), 6, branch=3)


def test_prompt_logprobs_come_with_every_sequence(executor: FakeExecutor) -> None:
    """Each sequence tells the whole prompt once, with its first token."""
    engine = make_engine(executor)
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True, n=3, prompt_logprobs=0)
    engine.add("a", range(20), params)
    for told in run(engine).values():
        assert [len(output.prompt_logprobs) for output in told] == [19, 0, 0]


def test_a_request_needs_seats_for_all_its_sequences(executor: FakeExecutor) -> None:
    """It waits until all can run side by side, and more than may ever run are refused."""
    engine = make_engine(executor, max_num_seqs=4)
    engine.add("before", [1], SamplingParams(max_tokens=3, temperature=0, ignore_eos=True))
    engine.add("a", range(10), FOUR)
    engine.step()
    assert (engine.stats().num_running, engine.stats().num_waiting) == (1, 4)
    run(engine)
    with pytest.raises(RequestError, match=r"^n: "):
        engine.add("b", [1], SamplingParams(n=5))


def test_seeds_of_sequences() -> None:
    """The first sequence has the request's own seed, the others have fixed ones of their own."""
    assert sequence_seed(7, 0) == 7
    seeds = [sequence_seed(seed, index) for seed in (7, 8) for index in range(4)]
    assert len(set(seeds)) == 8
    assert sequence_seed(7, 1) == 3594382538944860939


def test_a_beam_search_has_one_outcome(executor: FakeExecutor) -> None:
    """Its only output holds the best sequences, as the search alone over the model finds them."""
    engine = make_engine(executor)
    engine.add("a", range(10), BEAMS)
    [output] = run(engine)["a"]
    best = [list(output.token_ids), *(list(beam.token_ids) for beam in output.other_beams)]
    assert best == best_beams(range(10), BEAMS, ())
    assert output.num_output_tokens == 12
    assert engine.stats().outcomes == {FinishReason.LENGTH: 1}
    assert engine.stats().num_computed_tokens == 10 + 3 * 5


def test_a_preempted_beam_search_finds_the_same(executor: FakeExecutor) -> None:
    """Beams fall together and start again from their prompt, next to other requests."""
    engine = make_engine(executor, num_blocks=14)
    params = SamplingParams(max_tokens=12, ignore_eos=True, beam_width=3)
    greedy = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    for name, start in (("first", 0), ("second", 8)):
        engine.add(name, range(start, start + 8), greedy)
    engine.step()
    engine.add("a", range(20, 30), params)
    outputs = run(engine)
    assert engine.stats().num_preemptions > 0
    assert tokens(outputs["second"]) == continuation(range(8, 16), 30)[1:]
    assert tokens(outputs["a"]) == best_beams(range(20, 30), params, ())[0]


def test_a_beam_search_is_aborted_as_a_whole(executor: FakeExecutor) -> None:
    """All beams let go of their blocks at once."""
    engine = make_engine(executor)
    engine.add("a", range(10), BEAMS)
    engine.step()
    engine.step()
    assert engine.stats().num_running == 3
    ended = engine.abort("a")
    assert ended is not None and ended.finish_reason is FinishReason.ABORT
    assert engine.stats().num_blocks_used == 0
    engine.check()


def test_a_beam_search_fails_as_a_whole(executor: FakeExecutor) -> None:
    """One beam that fails ends the request; others of the step go on."""
    engine = make_engine(executor)
    executor.fails = lambda chunk: chunk.request.request_id == "a/1"
    engine.add("a", range(10), BEAMS)
    engine.add("b", range(5), FOUR)
    outputs = run(engine)
    assert [output.finish_reason for output in outputs["a"]] == [FinishReason.ERROR]
    assert tokens(outputs["b"]) == continuation(range(5), 6)


def test_beams_that_never_fit_are_refused(executor: FakeExecutor) -> None:
    """The cache must hold all beams at their full length, and the batch all of them at once."""
    engine = make_engine(executor, num_blocks=7)
    with pytest.raises(RequestError, match=r"^beam_width: has beams"):
        engine.add("a", range(10), BEAMS)
    with pytest.raises(RequestError, match=r"^beam_width: must be at most 6"):
        engine.add("a", [1], SamplingParams(beam_width=7))


class Tables(RuleBasedStateMachine):
    """Requests that fork, write and end over one pool; a model of the blocks' content beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(16, 4)
        self.copies = CopyOnWrite(self.pool)
        self.content: dict[tuple[int, int], int] = {}
        self.live: list[Request] = []
        self.num_made = 0

    def make(self, priority: int) -> Request:
        self.num_made += 1
        params = SamplingParams()
        root = root_hash("")
        index = self.num_made
        return Request(str(index), [], params, 0, frozenset(), root, index, 0.0, priority)

    @rule(priority=st.integers(-1, 1))
    def begin(self, priority: int) -> None:
        self.live.append(self.make(priority))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), priority=st.integers(-1, 1), reuse=st.booleans())
    def fork(self, data: st.DataObject, priority: int, reuse: bool) -> None:
        source = data.draw(st.sampled_from(self.live))
        target = data.draw(st.sampled_from(self.live)) if reuse else self.make(priority)
        if target is source:
            return
        fork(source, target, self.pool)
        if not reuse:
            self.live.append(target)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token_ids=st.lists(st.integers(0, 9), min_size=1, max_size=6))
    def write(self, data: st.DataObject, token_ids: list[int]) -> None:
        request = data.draw(st.sampled_from(self.live))
        num_tokens = request.num_tokens + len(token_ids)
        num_missing = self.pool.num_blocks_for(num_tokens) - len(request.block_ids)
        if num_missing + self.copies.num_needed(request) > self.pool.num_available:
            return
        if self.copies.num_needed(request):
            self.copies.detach(request)
        request.block_ids += self.pool.allocate(num_missing, request.priority)
        for source, target in self.copies.take():
            for offset in range(4):
                if (source, offset) in self.content:
                    self.content[target, offset] = self.content[source, offset]
        for token_id in token_ids:
            block_id = request.block_ids[request.num_tokens // 4]
            assert self.pool.num_holders(block_id) == 1, "a shared block is written"
            self.content[block_id, request.num_tokens % 4] = token_id
            request.token_ids.append(token_id)
        request.num_computed_tokens = request.num_tokens

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.live))
        self.live.remove(request)
        self.pool.release(request.block_ids)

    @invariant()
    def every_table_holds_its_tokens(self) -> None:
        self.pool.check(request.block_ids for request in self.live)
        for request in self.live:
            held = [
                self.content[request.block_ids[position // 4], position % 4]
                for position in range(request.num_tokens)
            ]
            assert held == request.token_ids


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
