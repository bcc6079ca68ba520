"""The scheduler's policy, one rule per test."""

from collections.abc import Callable

import pytest

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.request import FinishReason, Request, RequestStatus
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.scheduling.scheduler import Scheduler
from tests.generator.engine.fake_executor import continuation
from tests.generator.engine.loop import Loop

MakeRequest = Callable[..., Request]


def test_a_step_keeps_the_token_budget(make_request: MakeRequest) -> None:
    """Prompts are cut so that no step computes more than its budget, and fill it if they can."""
    loop = Loop(max_batched_tokens=10)
    loop.scheduler.add(make_request(range(7)))
    loop.scheduler.add(make_request(range(20, 29)))
    loop.step()
    assert loop.sizes == {"r1": 7, "r2": 3}
    loop.step()
    assert loop.sizes == {"r1": 1, "r2": 6}


def test_decodes_never_wait_for_a_prompt(make_request: MakeRequest) -> None:
    """Each running decode advances in every step, even behind an older request's long prompt."""
    loop = Loop(max_batched_tokens=10)
    decode = make_request(range(5), params=SamplingParams(max_tokens=20))
    urgent = make_request(range(40), priority=-1)
    loop.scheduler.add(decode)
    loop.step()
    loop.scheduler.add(urgent)
    while urgent.num_output_tokens == 0:
        before = decode.num_output_tokens
        loop.step()
        assert decode.num_output_tokens == before + 1
        assert sum(loop.sizes.values()) <= 10


def test_running_goes_before_waiting(make_request: MakeRequest) -> None:
    """A new request takes only what the running ones leave of the budget."""
    loop = Loop(max_batched_tokens=8)
    loop.scheduler.add(make_request(range(12)))
    loop.scheduler.add(make_request(range(20, 26)))
    loop.step()
    assert loop.sizes == {"r1": 8}
    loop.step()
    assert loop.sizes == {"r1": 4, "r2": 4}


def test_the_number_of_sequences_is_limited(make_request: MakeRequest) -> None:
    """No more requests run than allowed; the next enters when one ends."""
    loop = Loop(max_num_seqs=2)
    for _ in range(3):
        loop.scheduler.add(make_request([1], params=SamplingParams(max_tokens=2)))
    loop.step()
    assert set(loop.sizes) == {"r1", "r2"}
    loop.step()
    loop.step()
    assert set(loop.sizes) == {"r3"}


def test_the_budget_must_serve_every_decode() -> None:
    """Limits that would starve a decode are refused."""
    with pytest.raises(AssertionError):
        Scheduler(BlockPool(4, 4), max_num_seqs=3, max_batched_tokens=2)


def test_tenants_take_turns(make_request: MakeRequest) -> None:
    """One tenant's flood does not keep another's request waiting until its end."""
    loop = Loop(max_num_seqs=1)
    params = SamplingParams(max_tokens=500)
    stop = frozenset(range(50))
    for index in range(6):
        loop.scheduler.add(
            make_request([index], params=params, tenant="flood", stop_token_ids=stop)
        )
    loop.scheduler.add(make_request([9], params=params, tenant="late", stop_token_ids=stop))
    order = []
    while loop.scheduler.waiting or loop.scheduler.running:
        order += [output.request_id for output in loop.step()]
    assert order.index("r7") <= 2


def test_a_stop_token_ends_and_is_counted_but_not_delivered(make_request: MakeRequest) -> None:
    """The stop token is part of the usage and not of the text."""
    prompt = [1, 2, 3]
    tokens = continuation(prompt, 3)
    stop = frozenset({tokens[2]}) - set(tokens[:2])
    loop = Loop()
    loop.scheduler.add(make_request(prompt, stop_token_ids=stop))
    delivered, last = [], None
    while loop.scheduler.running or loop.scheduler.waiting:
        for last in loop.step():
            delivered += last.token_ids
    assert delivered == tokens[:2]
    assert last is not None
    assert (last.finish_reason, last.num_output_tokens) == (FinishReason.STOP, 3)


def test_deadlines_end_waiting_and_running_requests(make_request: MakeRequest) -> None:
    """Whoever is past its deadline ends with that outcome; the others are untouched."""
    loop = Loop(max_num_seqs=1)
    for deadline_s in (2.0, 1.5, None):
        loop.scheduler.add(make_request(deadline_s=deadline_s))
    loop.step()
    assert [o.request_id for o in loop.scheduler.expire(1.0)] == []
    ended = loop.scheduler.expire(2.0)
    assert [o.request_id for o in ended] == ["r2", "r1"]
    assert {o.finish_reason for o in ended} == {FinishReason.DEADLINE}
    assert loop.pool.num_used == 0
    assert set(loop.finish_all()) == {"r3"}


def test_the_stages_of_a_request_are_timed(make_request: MakeRequest) -> None:
    """Queue, prompt and decode times add up to the request's life."""
    loop = Loop(max_batched_tokens=8, max_num_seqs=1)
    loop.scheduler.add(make_request(params=SamplingParams(max_tokens=3)))
    loop.scheduler.add(make_request(range(16), params=SamplingParams(max_tokens=4)))
    last = loop.finish_all()["r2"]
    # Steps 1 to 3 serve the other one, 4 and 5 the prompt's two chunks, 6 to 8 the other tokens.
    assert (last.queue_s, last.prefill_s, last.decode_s) == (4.0, 1.0, 3.0)


def test_an_unscheduled_request_only_queued(make_request: MakeRequest) -> None:
    """A request that ends while it waits spent its whole life in the queue."""
    loop = Loop()
    request = make_request()
    loop.scheduler.add(request)
    output = loop.scheduler.finish(request, FinishReason.ABORT, 5.0)
    assert (output.queue_s, output.prefill_s, output.decode_s) == (5.0, 0.0, 0.0)
    assert request.status is RequestStatus.FINISHED


def test_a_failed_request_taints_its_blocks(make_request: MakeRequest) -> None:
    """A failure ends one request, hides its blocks from later hits and leaves the others alone."""
    loop = Loop()
    loop.executor.fails = lambda chunk: chunk.request.request_id == "r1"
    loop.scheduler.add(make_request([1] * 9))
    loop.scheduler.add(make_request([2] * 5))
    ended = loop.finish_all()
    assert ended["r1"].finish_reason is FinishReason.ERROR
    assert ended["r2"].finish_reason is FinishReason.LENGTH
    assert len(loop.pool.take_tainted()) == 3
    loop.scheduler.add(make_request([1] * 9))
    assert loop.finish_all()["r3"].num_cached_tokens == 0


def test_ending_twice_is_a_bug(make_request: MakeRequest) -> None:
    """A second outcome for one request stops at once."""
    loop = Loop()
    request = make_request()
    loop.scheduler.add(request)
    loop.scheduler.finish(request, FinishReason.ABORT, 0.0)
    with pytest.raises(AssertionError, match="ends twice"):
        loop.scheduler.finish(request, FinishReason.ABORT, 0.0)
