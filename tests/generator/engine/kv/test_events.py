"""Numbered changes in a bounded ring."""

from services.generator.engine.kv.events import BlockEventKind, BlockEvents


def filled(capacity: int, count: int) -> BlockEvents:
    events = BlockEvents(capacity)
    for index in range(count):
        events.record(BlockEventKind.STORED, b"%d" % index, b"root", 16)
    events.check()
    return events


def test_a_reader_gets_what_it_missed() -> None:
    """Events after a number come in order; one who is up to date gets none."""
    events = filled(4, 3)
    assert [event.number for event in events.since(1) or []] == [2, 3]
    assert events.since(3) == []


def test_a_reader_too_far_behind_needs_a_snapshot() -> None:
    """What left the ring cannot be read, and the oldest event that can be is not lost."""
    events = filled(4, 6)
    assert [event.number for event in events.since(2) or []] == [3, 4, 5, 6]
    assert events.since(1) is None


def test_numbers_of_another_life_need_a_snapshot() -> None:
    """A reader ahead of the events followed a cache that is gone."""
    assert filled(4, 2).since(3) is None
