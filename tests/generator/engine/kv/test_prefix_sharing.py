"""Prefix caching across live requests: what is hit, and what is waited for."""

from collections.abc import Callable

import pytest

from services.generator.engine.kv.prefix_sharing import PendingBlocks
from services.generator.engine.request import FinishReason, Request
from services.generator.engine.sampling_params import SamplingParams
from tests.generator.engine.fake_executor import continuation
from tests.generator.engine.loop import Loop

MakeRequest = Callable[..., Request]


def test_the_first_claim_counts(make_request: MakeRequest) -> None:
    """A second claim on a block changes nothing, also when its maker ends."""
    pending = PendingBlocks()
    first, second = make_request(), make_request()
    pending.claim(first, [b"a"])
    pending.claim(second, [b"a", b"b"])
    pending.drop(second)
    assert pending.is_worth_waiting(second, b"a")
    assert not pending.is_worth_waiting(first, b"b")
    pending.check([first])


def test_a_claim_ends_with_its_owner_or_its_block(make_request: MakeRequest) -> None:
    """Nobody waits for what exists or for who is gone, and no claim is left over."""
    pending = PendingBlocks()
    first, second = make_request(), make_request()
    pending.claim(first, [b"a", b"b"])
    pending.complete(b"a")
    assert not pending.is_worth_waiting(second, b"a")
    assert pending.is_worth_waiting(second, b"b")
    pending.drop(first)
    pending.drop(first)
    assert len(pending) == 0
    pending.check([])


def test_the_less_urgent_is_not_waited_for(make_request: MakeRequest) -> None:
    """An urgent request computes itself what a less urgent one may take long to compute."""
    pending = PendingBlocks()
    pending.claim(make_request(priority=1), [b"a"])
    assert not pending.is_worth_waiting(make_request(priority=0), b"a")
    assert pending.is_worth_waiting(make_request(priority=1), b"a")


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
    """A preempted request's claims are dropped, and every request ends with the right tokens."""
    loop = Loop(num_blocks=8, max_num_seqs=4, max_batched_tokens=6, output_quantile=0.0)
    loop.scheduler.add(make_request([9] * 12, priority=-1, params=SamplingParams(max_tokens=12)))
    loop.step()
    loop.step()
    sharers = [make_request(range(16)) for _ in range(2)]
    for request in sharers:
        loop.scheduler.add(request)
    loop.finish_all()
    assert loop.scheduler.preemption.num_preemptions > 0
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


def test_salts_do_not_share(make_request: MakeRequest) -> None:
    """Requests with different roots never hit each other's blocks."""
    loop = Loop()
    loop.scheduler.add(make_request(range(12), root_hash=b"tenant one"))
    loop.finish_all()
    loop.scheduler.add(make_request(range(12), root_hash=b"tenant two"))
    assert loop.finish_all()["r2"].num_cached_tokens == 0
