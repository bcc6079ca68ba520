"""Who computes which block now."""

from collections.abc import Callable

from services.generator.engine.kv.pending_blocks import PendingBlocks
from services.generator.engine.request import Request

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
    pending.computed(b"a")
    assert not pending.is_worth_waiting(second, b"a")
    assert pending.is_worth_waiting(second, b"b")
    pending.drop(first)
    pending.drop(first)
    assert len(pending) == 0
    pending.check([])


def test_nobody_waits_for_the_less_urgent(make_request: MakeRequest) -> None:
    """An urgent request computes itself what a less urgent one may take long to compute."""
    pending = PendingBlocks()
    pending.claim(make_request(priority=1), [b"a"])
    assert not pending.is_worth_waiting(make_request(priority=0), b"a")
    assert pending.is_worth_waiting(make_request(priority=1), b"a")
