"""The order of a replica's frames, under loss, duplication and any order of arrival."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.generation.frame_order import MAX_HELD, Arrival, FrameOrder


def test_frames_in_order_pass_at_once() -> None:
    """A frame with the next number is handed on with nothing asked for."""
    line: FrameOrder[str] = FrameOrder()
    assert line.accept(1, "a", 1) == Arrival(("a",))
    assert line.accept(2, "b", 1) == Arrival(("b",))


def test_a_duplicate_is_ignored() -> None:
    """A frame that was handed on never comes a second time."""
    line: FrameOrder[str] = FrameOrder()
    line.accept(1, "a", 1)
    assert line.accept(1, "a", 1) == Arrival()


def test_a_gap_is_asked_for_once() -> None:
    """The missing numbers are named when the gap is first seen, and filled in order."""
    line: FrameOrder[int] = FrameOrder()
    assert line.accept(4, 4, 1) == Arrival(missing=(1, 3))
    assert line.accept(5, 5, 1) == Arrival()
    assert line.accept(2, 2, 1) == Arrival()
    assert line.accept(1, 1, 1).ready == (1, 2)
    assert line.accept(3, 3, 1) == Arrival((3, 4, 5))


def test_a_second_gap_is_asked_for_after_the_first() -> None:
    """A later gap is named too once the frames before it are there."""
    line: FrameOrder[int] = FrameOrder()
    line.accept(2, 2, 1)
    line.accept(4, 4, 1)
    assert line.accept(1, 1, 1) == Arrival((1, 2), missing=(3, 3))


def test_a_heartbeat_reveals_the_loss_of_the_last_frame() -> None:
    """The number in a heartbeat asks for what never came, each time again."""
    line: FrameOrder[int] = FrameOrder()
    line.accept(1, 1, 1)
    assert line.heartbeat(1, 1) == Arrival()
    assert line.heartbeat(3, 1).missing == (2, 3)
    assert line.heartbeat(3, 1).missing == (2, 3)
    assert line.accept(2, 2, 1).ready == (2,)
    assert line.accept(3, 3, 1).ready == (3,)
    assert line.heartbeat(3, 1) == Arrival()


def test_a_replica_that_sent_nothing_misses_nothing() -> None:
    """The heartbeat of a link without frames has number 0 and asks for nothing."""
    line: FrameOrder[int] = FrameOrder()
    assert line.heartbeat(0, 1) == Arrival()


def test_frames_that_are_gone_break_the_line() -> None:
    """When the replica no longer has the missing frame, the hole is told and skipped."""
    line: FrameOrder[int] = FrameOrder()
    line.accept(1, 1, 1)
    assert line.accept(5, 5, 4).broken
    assert line.accept(6, 6, 4) == Arrival((6,)), "what follows is whole again"


def test_a_heartbeat_can_tell_that_frames_are_gone() -> None:
    """A hole at the end is found by a heartbeat, too."""
    line: FrameOrder[int] = FrameOrder()
    assert line.heartbeat(9, 4).broken
    assert line.accept(10, 10, 4) == Arrival((10,))


def test_old_frames_may_go_when_they_have_arrived() -> None:
    """`oldest` moving past frames that came is no loss."""
    line: FrameOrder[int] = FrameOrder()
    for number in (1, 2, 3):
        assert line.accept(number, number, number) == Arrival((number,))
    assert line.heartbeat(3, 4) == Arrival()


def test_held_frames_are_bounded() -> None:
    """A gap that is not filled is given up before memory fills with what came after it."""
    line: FrameOrder[int] = FrameOrder()
    broken = [line.accept(number, number, 1).broken for number in range(2, MAX_HELD + 4)]
    assert broken.count(True) == 1


def test_a_replica_that_forgot_us_starts_again_at_one() -> None:
    """A heartbeat below what was received means a new count: its frames are no duplicates."""
    line: FrameOrder[str] = FrameOrder()
    for number in (1, 2, 3):
        line.accept(number, "old", 1)
    assert line.accept(1, "new", 1) == Arrival()
    assert line.heartbeat(1, 1).missing == (1, 1)
    assert line.accept(1, "new", 1).ready == ("new",)


@settings(max_examples=150, deadline=None)
@given(
    total=st.integers(1, 30),
    lost=st.sets(st.integers(1, 30)),
    twice=st.lists(st.integers(1, 30), max_size=8),
    shuffle=st.randoms(use_true_random=False),
    resends_lost=st.integers(0, 3),
)
def test_any_arrival_with_resends_gives_the_exact_order(
    total: int, lost: set[int], twice: list[int], shuffle, resends_lost: int
) -> None:
    """Loss, duplication and any order end in every frame once, in order, and nothing broken."""
    line: FrameOrder[int] = FrameOrder()
    first = [n for n in range(1, total + 1) if n not in lost]
    arrivals = [*first, *(n for n in twice if n <= total)]
    shuffle.shuffle(arrivals)
    got: list[int] = []

    def take(arrival: Arrival[int]) -> None:
        nonlocal resends_lost
        assert not arrival.broken
        got.extend(arrival.ready)
        if arrival.missing is None:
            return
        low, high = arrival.missing
        assert low <= high <= total, "asks for frames that exist"
        assert not set(range(low, high + 1)) & set(got), "asks for what it has"
        if resends_lost:
            resends_lost -= 1
            return
        resent = list(range(low, high + 1))
        shuffle.shuffle(resent)
        arrivals[:0] = resent

    while arrivals:
        number = arrivals.pop(0)
        take(line.accept(number, number, 1))
    for _ in range(2 * total + 5):
        take(line.heartbeat(total, 1))
        while arrivals:
            number = arrivals.pop(0)
            take(line.accept(number, number, 1))
    assert got == list(range(1, total + 1))


@settings(max_examples=100, deadline=None)
@given(
    kept=st.integers(1, 5),
    lost=st.sets(st.integers(1, 20), max_size=12),
)
def test_broken_exactly_when_a_missing_frame_is_no_longer_kept(kept: int, lost: set[int]) -> None:
    """With a sender that keeps few frames, a line breaks only on frames that are really gone."""
    line: FrameOrder[int] = FrameOrder()
    got: list[int] = []
    for number in range(1, 21):
        oldest = max(1, number - kept + 1)
        if number in lost:
            continue
        arrival = line.accept(number, number, oldest)
        # every resend is lost: a gap is repaired by nothing
        got.extend(arrival.ready)
        following = got[-1] + 1 if got else 1
        if arrival.broken:
            assert any(n < oldest for n in lost if n < number)
            assert number not in arrival.ready
            line = FrameOrder()
            break
        assert following > number or any(n >= oldest for n in lost)
    assert got == sorted(set(got))
