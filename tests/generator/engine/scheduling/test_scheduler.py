"""The scheduler's policy, one rule per test."""

from collections.abc import Callable
from typing import Any

import pytest

from services.generator.engine.errors import QueueFullError
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.outputs import StepOutput
from services.generator.engine.request import FinishReason, Request, RequestStatus
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.scheduling.scheduler import Scheduler
from tests.generator.engine.fake_executor import FakeExecutor, continuation

MakeRequest = Callable[..., Request]


class Loop:
    """A scheduler with a fake executor and a clock that counts steps."""

    def __init__(
        self,
        num_blocks: int = 64,
        max_num_seqs: int = 8,
        max_batched_tokens: int = 16,
        **options: Any,
    ) -> None:
        self.pool = BlockPool(num_blocks, 4)
        self.scheduler = Scheduler(self.pool, max_num_seqs, max_batched_tokens, **options)
        self.executor = FakeExecutor(4)
        self.now_s = 0.0
        self.sizes: dict[str, int] = {}

    def step(self) -> list[StepOutput]:
        self.now_s += 1.0
        chunks = self.scheduler.schedule(self.now_s)
        self.sizes = {chunk.request.request_id: chunk.num_tokens for chunk in chunks}
        outputs = self.scheduler.commit(chunks, self.executor.execute(chunks), self.now_s)
        self.scheduler.check()
        return outputs

    def finish_all(self, limit: int = 1000) -> dict[str, StepOutput]:
        ended = {}
        while self.scheduler.running or self.scheduler.waiting:
            limit -= 1
            assert limit > 0, "no progress"
            ended |= {o.request_id: o for o in self.step() if o.finish_reason}
        return ended


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


def test_a_prefix_is_computed_once(make_request: MakeRequest) -> None:
    """Full blocks are reused after their request ended, but the last token is always computed."""
    loop = Loop()
    loop.scheduler.add(make_request(range(12), params=SamplingParams(max_tokens=1)))
    loop.finish_all()
    loop.scheduler.add(make_request(range(12), params=SamplingParams(max_tokens=1)))
    ended = loop.finish_all()
    assert ended["r2"].num_cached_tokens == 8
    assert loop.sizes == {"r2": 4}
    assert loop.scheduler.prefixes.num_hit_tokens == 8
    assert loop.scheduler.prefixes.num_query_tokens == 24


def test_without_prefix_caching_nothing_is_reused(make_request: MakeRequest) -> None:
    """The same prompt is computed in full each time, at once, and leaves only free blocks."""
    loop = Loop(prefix_caching=False, max_batched_tokens=30)
    for _ in range(2):
        loop.scheduler.add(make_request(range(12), params=SamplingParams(max_tokens=2)))
    loop.step()
    assert loop.sizes == {"r1": 12, "r2": 12}
    ended = loop.finish_all()
    assert [output.num_cached_tokens for output in ended.values()] == [0, 0]
    assert (loop.pool.num_cached, loop.pool.num_free) == (0, 64)
    assert loop.scheduler.prefixes.num_query_tokens == 0


def test_only_computed_blocks_can_be_hit(make_request: MakeRequest) -> None:
    """A prompt that ends half computed leaves only its computed blocks for others."""
    loop = Loop(max_batched_tokens=9)
    first = make_request(range(16))
    loop.scheduler.add(first)
    loop.step()
    loop.scheduler.finish(first, FinishReason.ABORT, loop.now_s)
    loop.scheduler.add(make_request(range(16)))
    assert loop.finish_all()["r2"].num_cached_tokens == 8


def test_a_prefix_in_the_making_is_computed_once(make_request: MakeRequest) -> None:
    """Requests with one prompt wait for the first one's blocks and then all hit them."""
    loop = Loop(max_batched_tokens=9)
    for _ in range(3):
        loop.scheduler.add(make_request(range(16), params=SamplingParams(max_tokens=2)))
    loop.scheduler.add(make_request(range(30, 33), params=SamplingParams(max_tokens=2)))
    loop.step()
    assert loop.sizes == {"r1": 9}
    loop.step()
    assert loop.sizes == {"r1": 7, "r4": 2}
    loop.step()
    assert loop.sizes == {"r1": 1, "r2": 4, "r3": 3, "r4": 1}
    ended = loop.finish_all()
    assert [ended[i].num_cached_tokens for i in ("r2", "r3")] == [12, 12]
    assert loop.scheduler.prefixes.num_waits == 2


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.ERROR])
def test_those_who_wait_go_on_when_the_first_one_ends(
    make_request: MakeRequest, reason: FinishReason
) -> None:
    """One of them computes the rest, the other still waits for it."""
    loop = Loop(max_num_seqs=3, max_batched_tokens=5)
    requests = [make_request(range(16)) for _ in range(3)]
    for request in requests:
        loop.scheduler.add(request)
    loop.step()
    loop.scheduler.finish(requests[0], reason, loop.now_s)
    loop.step()
    assert loop.sizes == {"r2": 5}
    ended = loop.finish_all()
    assert ended["r2"].num_cached_tokens == (4 if reason is FinishReason.ABORT else 0)
    assert ended["r3"].num_cached_tokens == 12


def test_those_who_wait_go_on_when_the_first_one_is_preempted(make_request: MakeRequest) -> None:
    """A preempted request's claims fall, and everyone ends with the right tokens."""
    loop = Loop(num_blocks=8, max_num_seqs=4, max_batched_tokens=6, output_quantile=0.0)
    loop.scheduler.add(make_request([9] * 12, priority=-1, params=SamplingParams(max_tokens=12)))
    loop.step()
    loop.step()
    sharers = [make_request(range(16)) for _ in range(2)]
    for request in sharers:
        loop.scheduler.add(request)
    loop.finish_all()
    assert loop.scheduler.claims.num_preemptions > 0
    for request in sharers:
        assert request.token_ids[16:] == continuation(range(16), 8)


def test_an_urgent_request_does_not_wait_for_a_plain_ones_blocks(
    make_request: MakeRequest,
) -> None:
    """It computes the prefix itself, ahead of the one that had begun."""
    loop = Loop(max_batched_tokens=9, max_num_seqs=4)
    loop.scheduler.add(make_request(range(24)))
    loop.scheduler.add(make_request([7]))
    loop.step()
    loop.scheduler.add(make_request(range(24), priority=-1))
    loop.step()
    loop.step()
    assert loop.sizes["r3"] > 1
    loop.finish_all()


def test_a_full_queue_refuses_with_the_expected_wait(make_request: MakeRequest) -> None:
    """Each limit refuses by name, and the wait is what waits over the measured rate."""
    loop = Loop(max_num_seqs=1, max_batched_tokens=8, max_queued_requests=3, max_queued_tokens=30)
    params = SamplingParams(max_tokens=1)
    for index in range(3):
        loop.scheduler.add(make_request([index] * 8, params=params))
    with pytest.raises(QueueFullError) as refused:
        loop.scheduler.add(make_request([7]))
    assert (refused.value.limit, refused.value.expected_wait_s) == ("max_queued_requests", 1.0)
    loop.step()
    loop.step()
    with pytest.raises(QueueFullError) as refused:
        loop.scheduler.add(make_request([7] * 23))
    assert refused.value.limit == "max_queued_tokens"
    assert refused.value.expected_wait_s == pytest.approx(1.0)
    assert loop.scheduler.limits.num_refusals == 2
    loop.scheduler.add(make_request([7] * 22))
    assert len(loop.finish_all()) == 2


def test_an_empty_queue_takes_a_long_prompt(make_request: MakeRequest) -> None:
    """A prompt above the limit would otherwise never be served."""
    loop = Loop(max_queued_tokens=10)
    loop.scheduler.add(make_request(range(20)))
    assert len(loop.finish_all()) == 1


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


def test_salts_do_not_share(make_request: MakeRequest) -> None:
    """Requests with different roots never hit each other's blocks."""
    loop = Loop()
    loop.scheduler.add(make_request(range(12), root_hash=b"tenant one"))
    loop.finish_all()
    loop.scheduler.add(make_request(range(12), root_hash=b"tenant two"))
    assert loop.finish_all()["r2"].num_cached_tokens == 0


def test_the_youngest_is_preempted_and_loses_nothing(make_request: MakeRequest) -> None:
    """Out of blocks, the last in order gives way and later ends with the same tokens."""
    loop = Loop(num_blocks=6, output_quantile=0.0)
    params = SamplingParams(max_tokens=12)
    requests = [make_request([index] * 6, params=params) for index in range(3)]
    for request in requests:
        loop.scheduler.add(request)
    loop.finish_all()
    assert loop.scheduler.claims.num_preemptions > 0
    assert requests[0].num_preemptions == 0
    for index, request in enumerate(requests):
        assert request.token_ids[6:] == continuation([index] * 6, 12)


def test_a_preemption_is_explained(
    make_request: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line says who gave way to whom and what it held, and the figures add it up."""
    loop = Loop(num_blocks=4, output_quantile=0.0)
    for index in range(2):
        loop.scheduler.add(make_request([index] * 5, params=SamplingParams(max_tokens=11)))
    loop.finish_all()
    assert loop.scheduler.claims.num_preemptions == 1
    [line] = caplog.messages
    assert line.startswith("preempted r2 (priority 0, time 1): r1 needs 1 blocks, 0 are available")
    assert line.endswith("it held 2 blocks with 8 computed tokens")
    assert loop.scheduler.claims.num_preempted_blocks == 2
    assert loop.scheduler.claims.num_preempted_tokens == 8


def test_the_least_urgent_gives_way_before_the_latest(make_request: MakeRequest) -> None:
    """Priority chooses the victim first, arrival second."""
    loop = Loop(num_blocks=6, output_quantile=0.0)
    params = SamplingParams(max_tokens=12)
    requests = [make_request([i] * 6, params=params, priority=p) for i, p in enumerate((1, 0, 0))]
    for request in requests:
        loop.scheduler.add(request)
    while loop.scheduler.claims.num_preemptions == 0:
        loop.step()
    assert [request.num_preemptions for request in requests] == [1, 0, 0]
    loop.finish_all()


def test_nothing_is_admitted_in_a_step_that_preempts(make_request: MakeRequest) -> None:
    """A step that took blocks away does not hand them to a newcomer."""
    loop = Loop(num_blocks=4, output_quantile=0.0)
    for index in range(2):
        loop.scheduler.add(make_request([index] * 5, params=SamplingParams(max_tokens=11)))
    while loop.scheduler.claims.num_preemptions == 0:
        loop.step()
    assert set(loop.sizes) == {"r1"}
    loop.finish_all()


def test_a_request_as_large_as_the_pool_ends(make_request: MakeRequest) -> None:
    """The oldest request always progresses, even if it needs every block."""
    loop = Loop(num_blocks=4, output_quantile=0.0)
    for index in range(3):
        loop.scheduler.add(make_request([index] * 8, params=SamplingParams(max_tokens=8)))
    ended = loop.finish_all()
    assert {output.finish_reason for output in ended.values()} == {FinishReason.LENGTH}


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
