"""The engine's public face, over an executor without a model."""

from pathlib import Path
from typing import Any

import pytest

from services.generator.engine import (
    Engine,
    EngineConfig,
    EngineConfigError,
    FinishReason,
    RequestError,
    SamplingParams,
    StepOutput,
)
from services.generator.engine.kv.block_pool import BlockPool
from tests.generator.engine.fake_executor import FakeExecutor, continuation
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=64, eos_token_id=[7, 99])
GREEDY = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor(4)


@pytest.fixture
def engine(executor: FakeExecutor) -> Engine:
    config = EngineConfig(Path("unused"), max_num_seqs=4, max_batched_tokens=16, block_size=4)
    return Engine(config, MODEL, executor, BlockPool(12, 4))


def run(engine: Engine) -> dict[str, list[StepOutput]]:
    """Step until idle; return all outputs by request."""
    outputs: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check()
    return outputs


def test_tokens_arrive_one_per_step(engine: Engine) -> None:
    """Each output carries the new token, and the last one the outcome and the usage."""
    engine.add("a", [1, 2, 3], GREEDY)
    outputs = run(engine)["a"]
    assert [list(o.token_ids) for o in outputs] == [[t] for t in continuation([1, 2, 3], 4)]
    assert [o.finish_reason for o in outputs] == [None, None, None, FinishReason.LENGTH]
    assert (outputs[-1].num_prompt_tokens, outputs[-1].num_output_tokens) == (3, 4)
    assert not engine.has_work
    assert engine.step() == []


def test_eos_stops_unless_ignored(engine: Engine) -> None:
    """The model's end ids stop a request; ids outside the vocabulary are no trap."""
    prompt = next([n] for n in range(50) if continuation([n], 1) == [7])
    engine.add("stops", prompt, SamplingParams(max_tokens=4, temperature=0))
    engine.add("goes on", prompt, GREEDY)
    outputs = run(engine)
    assert outputs["stops"][0].finish_reason is FinishReason.STOP
    assert outputs["stops"][0].token_ids == ()
    assert outputs["stops"][0].num_output_tokens == 1
    assert len(outputs["goes on"]) == 4


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_token_is_delivered_where_it_is_included(engine: Engine, include: bool) -> None:
    """It comes with its logprobs, and counts in the usage either way."""
    stop = continuation([1, 2, 3], 3)[-1]
    params = SamplingParams(
        max_tokens=9, temperature=0, stop_token_ids=(stop,), include_stop_token=include, logprobs=0
    )
    engine.add("a", [1, 2, 3], params)
    outputs = run(engine)["a"]
    delivered = [token_id for output in outputs for token_id in output.token_ids]
    assert delivered == continuation([1, 2, 3], 3 if include else 2)
    assert [one.token_id for output in outputs for one in output.logprobs] == delivered
    assert (outputs[-1].finish_reason, outputs[-1].num_output_tokens) == (FinishReason.STOP, 3)


def test_the_first_output_tells_how_it_began(executor: FakeExecutor) -> None:
    """Cached tokens and times until the first token do not wait for an end that may never come."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    config = EngineConfig(Path("unused"), max_num_seqs=4, max_batched_tokens=16, block_size=4)
    engine = Engine(config, MODEL, executor, BlockPool(12, 4), clock)
    for name in ("first", "again"):
        engine.add(name, range(9), GREEDY)
        first, *later = run(engine)[name]
        assert first.start is not None
        assert first.start.num_cached_tokens == later[-1].num_cached_tokens
        assert first.start.queue_s == later[-1].queue_s > 0
        assert first.start.prefill_s == later[-1].prefill_s > 0
        assert not any(output.start for output in later)
    assert first.start.num_cached_tokens == 8


@pytest.mark.parametrize(
    ("field", "prompt", "params"),
    [
        ("prompt", [], GREEDY),
        ("prompt", [1, 50], GREEDY),
        ("prompt", [-1], GREEDY),
        ("prompt", [1] * 48, GREEDY),
        ("max_tokens", [1] * 45, GREEDY),
        ("stop_token_ids", [1], SamplingParams(stop_token_ids=(50,))),
        ("allowed_token_ids", [1], SamplingParams(allowed_token_ids=(50,))),
        ("bad_token_ids", [1], SamplingParams(bad_token_ids=(50,))),
        ("logit_bias", [1], SamplingParams(logit_bias=((50, 1.0),))),
        (
            "allowed_token_ids",
            [1],
            SamplingParams(allowed_token_ids=(1, 7), bad_token_ids=(1,), min_tokens=1),
        ),
        ("bad_token_ids", [1], SamplingParams(bad_token_ids=tuple(range(50)))),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(
    engine: Engine, field: str, prompt: list[int], params: SamplingParams
) -> None:
    """The refusal names the field, and nothing was admitted."""
    with pytest.raises(RequestError) as caught:
        engine.add("a", prompt, params)
    assert caught.value.field == field
    assert not engine.has_work
    assert engine.stats().num_admissions == 0


def test_the_largest_request_is_served(engine: Engine) -> None:
    """A request may fill the whole pool, which here is smaller than the context."""
    assert engine.max_request_tokens == 48
    engine.add("a", [1] * 44, GREEDY)
    assert run(engine)["a"][-1].finish_reason is FinishReason.LENGTH


def test_an_id_is_live_once(engine: Engine) -> None:
    """A live id is refused and free again after its end."""
    engine.add("a", [1], GREEDY)
    with pytest.raises(RequestError, match="request_id"):
        engine.add("a", [2], GREEDY)
    run(engine)
    engine.add("a", [1], GREEDY)


def test_abort_frees_at_once_and_is_idempotent(engine: Engine) -> None:
    """The first abort returns the outcome and frees the blocks; another one returns None."""
    engine.add("a", [1] * 9, GREEDY)
    engine.step()
    assert engine.stats().num_blocks_used > 0
    output = engine.abort("a")
    assert output is not None
    assert output.finish_reason is FinishReason.ABORT
    assert output.num_output_tokens == 1
    assert engine.stats().num_blocks_used == 0
    assert engine.abort("a") is None
    assert engine.abort("never heard of") is None
    assert engine.step() == []
    engine.check()


def test_abort_carries_the_reason_given(engine: Engine) -> None:
    """The owner may end a request for another reason than an abort."""
    engine.add("a", [1], GREEDY)
    output = engine.abort("a", FinishReason.ERROR)
    assert output is not None
    assert output.finish_reason is FinishReason.ERROR


def test_an_exception_ends_only_its_request(engine: Engine, executor: FakeExecutor) -> None:
    """A batch that raises is run again one by one; only the cause ends with an error."""
    executor.raises = lambda chunk: chunk.request.request_id == "bad"
    for request_id in ("good", "bad", "fine"):
        engine.add(request_id, [len(request_id)], GREEDY)
    outputs = run(engine)
    assert outputs["bad"][-1].finish_reason is FinishReason.ERROR
    for request_id in ("good", "fine"):
        tokens = [token for output in outputs[request_id] for token in output.token_ids]
        assert tokens == continuation([len(request_id)], 4)


def test_failed_blocks_are_cleared_before_reuse(engine: Engine, executor: FakeExecutor) -> None:
    """The memory of a failed request is cleared before the next step schedules."""
    executor.fails = lambda chunk: chunk.request.request_id == "bad"
    engine.add("bad", [1] * 6, GREEDY)
    engine.step()
    assert executor.cleared == []
    engine.step()
    assert len(executor.cleared) == 2


def test_a_deadline_is_an_outcome(executor: FakeExecutor) -> None:
    """A request past its deadline ends at the next step, with its usage so far."""
    now_s = 10.0
    config = EngineConfig(Path("unused"), max_num_seqs=4, max_batched_tokens=16, block_size=4)
    engine = Engine(config, MODEL, executor, BlockPool(12, 4), clock=lambda: now_s)
    engine.add("a", [1], GREEDY, deadline=11.0)
    engine.step()
    now_s = 11.0
    [output] = engine.step()
    assert (output.finish_reason, output.num_output_tokens) == (FinishReason.DEADLINE, 1)
    assert not engine.has_work


def test_an_urgent_request_goes_first(engine: Engine) -> None:
    """A lower priority number overtakes those that wait."""
    for index in range(4):
        engine.add(str(index), [1] * 4, GREEDY)
    engine.step()
    engine.add("late", [1], GREEDY)
    engine.add("urgent", [2], GREEDY, priority=-1)
    order = []
    while engine.has_work:
        order += [o.request_id for o in engine.step() if o.finish_reason]
    assert order.index("urgent") < order.index("late")


def test_stats_count_what_happened(engine: Engine) -> None:
    """The totals match the work."""
    engine.add("a", [1, 2, 3], GREEDY)
    engine.add("b", [1, 2, 3], GREEDY)
    engine.step()
    assert engine.stats().num_running == 2
    assert engine.stats().last_step_tokens == 6
    run(engine)
    stats = engine.stats()
    assert stats.outcomes == {FinishReason.LENGTH: 2}
    assert stats.num_admissions == 2
    assert stats.num_generated_tokens == 8
    assert stats.num_computed_tokens == 12
    assert stats.num_steps == 4
    blocks = stats.num_blocks_free + stats.num_blocks_cached + stats.num_blocks_used
    assert blocks == stats.num_blocks_total == 12


def test_the_repr_tells_the_state(engine: Engine) -> None:
    """Live counts can be read off the engine."""
    engine.add("a", [1], GREEDY)
    assert "running 0, waiting 1, BlockPool(free 12" in repr(engine)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_num_seqs", 0),
        ("max_batched_tokens", 3),
        ("block_size", 0),
        ("kv_cache_bytes", 0),
        ("num_threads", 0),
        ("speculative_tokens", -1),
        ("speculative_tokens", 16),
        ("quantization", "int2"),
    ],
)
def test_a_bad_option_names_its_field(field: str, value: Any) -> None:
    """The engine's options check themselves, alone and against each other."""
    with pytest.raises(EngineConfigError) as caught:
        EngineConfig(Path("unused"), **{"max_num_seqs": 4, field: value})
    assert caught.value.field == field
