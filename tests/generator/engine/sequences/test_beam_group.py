"""Beam search in the engine: the beams of a group run, are preempted and end together."""

import pytest

from services.generator.engine import (
    FinishReason,
    RequestError,
    SamplingParams,
)
from tests.generator.engine.fake_executor import FakeExecutor, best_beams, continuation
from tests.generator.engine.sequences.engines import make_engine, run, tokens

FOUR = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True, n=4)
BEAMS = SamplingParams(max_tokens=6, ignore_eos=True, n=2, beam_width=3)


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor(4)


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
    """Beams are preempted together and start again from their prompt, next to other requests."""
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
