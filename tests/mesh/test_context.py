"""A request's id and deadline across hops."""

import asyncio
import time

import pytest

from mesh.context import DEADLINE, REQUEST_ID, RequestContext
from mesh.errors import Code, MeshError


def test_a_new_request_has_an_id_and_a_deadline() -> None:
    """Ids differ unless one is given; the deadline lies ahead by the limit."""
    first, second = RequestContext.start(5), RequestContext.start(5)
    assert first.request_id != second.request_id
    assert RequestContext.start(5, "mine").request_id == "mine"
    assert 4.5 < first.remaining() <= 5


def test_remaining_is_limited() -> None:
    """One hop may get less than what is left, never more."""
    context = RequestContext.start(5)
    assert context.remaining(1) == 1
    assert context.remaining(100) <= 5


def test_after_the_deadline_nothing_remains() -> None:
    """A request that is over fails before it asks anyone."""
    with pytest.raises(MeshError) as error:
        RequestContext.start(-0.001).remaining()
    assert error.value.code is Code.DEADLINE_EXCEEDED


async def test_a_block_ends_at_the_deadline() -> None:
    """What takes longer than the request has, or than the block may, is DEADLINE_EXCEEDED."""
    for context, limit_s in [
        (RequestContext.start(0.01), float("inf")),
        (RequestContext.start(60), 0.01),
    ]:
        with pytest.raises(MeshError) as error:
            async with context.limit(limit_s):
                await asyncio.Event().wait()
        assert error.value.code is Code.DEADLINE_EXCEEDED


async def test_a_block_does_not_begin_after_the_deadline() -> None:
    """A request that is over fails at the door."""
    with pytest.raises(MeshError):
        async with RequestContext.start(-0.001).limit():
            pytest.fail("the block began")


async def test_a_block_in_time_leaves_no_trace() -> None:
    """A block that ends in time, whatever follows it, is not cancelled later."""
    context = RequestContext.start(0.02)
    async with context.limit():
        pass
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.Event().wait()


async def test_a_timeout_inside_stays_what_it_is() -> None:
    """Another limit's TimeoutError is not taken for the request's deadline."""
    with pytest.raises(TimeoutError):
        async with RequestContext.start(60).limit(), asyncio.timeout(0.001):
            await asyncio.Event().wait()


async def test_an_outer_cancellation_passes() -> None:
    """A task that is cancelled while it has time left ends as cancelled."""
    began = asyncio.Event()

    async def work() -> None:
        async with RequestContext.start(60).limit():
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_headers_carry_the_context() -> None:
    """The other side has the same id and the same deadline, within clock reading."""
    context = RequestContext.start(20, "id-1")
    there = RequestContext.from_headers(context.headers(), 600)
    assert there.request_id == "id-1"
    assert there.remaining() == pytest.approx(context.remaining(), abs=0.1)
    assert there.deadline_unix_ms == pytest.approx(context.deadline_unix_ms, abs=100)


def test_the_receivers_limit_holds() -> None:
    """A caller cannot ask for more time than the receiver gives."""
    headers = RequestContext.start(1000).headers()
    assert RequestContext.from_headers(headers, 5).remaining() <= 5


def test_a_deadline_that_has_passed_stays_passed() -> None:
    """A request that arrives too late is over."""
    headers = {DEADLINE: str(int((time.time() - 5) * 1000))}
    with pytest.raises(MeshError):
        RequestContext.from_headers(headers, 60).remaining()


@pytest.mark.parametrize(
    "text", ["", "soon", "-5", "1e3", " 12", "²", "1.5", "9" * 5000, "9" * 400, "nan"]
)
def test_a_deadline_that_is_none_is_ignored(text: str) -> None:
    """Whatever stands in the header, the limit holds and nothing fails."""
    context = RequestContext.from_headers({DEADLINE: text, REQUEST_ID: "x"}, 5)
    assert 4.5 < context.remaining() <= 5
    assert context.request_id == "x"


def test_without_headers() -> None:
    """A caller without context begins a new request."""
    context = RequestContext.from_headers({}, 5)
    assert context.request_id
    assert context.remaining() <= 5
