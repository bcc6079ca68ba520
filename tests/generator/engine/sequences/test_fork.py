"""Parallel sampling: sequences that go on from one prompt and share its blocks."""

import pytest

from services.generator.engine import (
    FinishReason,
    RequestError,
    SamplingParams,
    StepOutput,
)
from services.generator.engine.sequences.fork import sequence_seed
from tests.generator.engine.fake_executor import FakeExecutor, continuation
from tests.generator.engine.sequences.engines import make_engine, run, tokens

FOUR = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, n=4)


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor(4)


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
    for other, later in run(engine).items():
        outputs.setdefault(other, []).extend(later)
    for branch, other in enumerate(["a", "a/1", "a/2", "a/3"]):
        if other != name:
            assert tokens(outputs[other]) == continuation(range(20), 6, branch=branch)
    assert engine.stats().outcomes == {FinishReason.ABORT: 1, FinishReason.LENGTH: 3}


def test_preempted_sequences_have_the_same_tokens(executor: FakeExecutor) -> None:
    """Where the pool is too small for all, some compute again, and no tokens change."""
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
    """Each sequence describes the whole prompt once, with its first token."""
    engine = make_engine(executor)
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True, n=3, prompt_logprobs=0)
    engine.add("a", range(20), params)
    for outputs in run(engine).values():
        assert [len(output.prompt_logprobs) for output in outputs] == [19, 0, 0]


def test_a_request_needs_slots_for_all_its_sequences(executor: FakeExecutor) -> None:
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
