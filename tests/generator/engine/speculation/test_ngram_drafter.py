"""Guesses come from the text itself, and cost the same however it arrived."""

from hypothesis import given
from hypothesis import strategies as st

from services.generator.engine.speculation.ngram_drafter import SIZES, NgramDrafter

TEXTS = st.lists(st.integers(0, 3), max_size=40)
COUNTS = st.integers(1, 9)


def latest_end(text: list[int], size: int) -> int | None:
    """The position after the latest earlier occurrence of the last `size` tokens, by a scan."""
    ends = range(len(text) - 1, size - 1, -1)
    return next((end for end in ends if text[end - size : end] == text[-size:]), None)


@given(TEXTS, COUNTS)
def test_a_proposal_follows_the_latest_longest_match(text: list[int], count: int) -> None:
    """Each guess is the token that came after the same n-gram, the guesses before it included."""
    proposal = NgramDrafter().propose(text, count)
    ends = {size: latest_end(text, size) for size in SIZES if size < len(text)}
    match = next(((size, end) for size, end in ends.items() if end is not None), None)
    if match is None:
        assert proposal is None
        return
    assert proposal is not None
    assert proposal.size == match[0]
    assert len(proposal.token_ids) == count
    whole = text + list(proposal.token_ids)
    assert whole[len(text) :] == whole[match[1] : match[1] + count]


@given(TEXTS, st.sets(st.integers(0, 40)), COUNTS)
def test_growing_is_like_starting_anew(text: list[int], stops: set[int], count: int) -> None:
    """A drafter that saw the text grow proposes what a new one does."""
    grown = NgramDrafter()
    for end in sorted(stop for stop in stops if stop < len(text)):
        grown.propose(text[:end], count)
    assert grown.propose(text, count) == NgramDrafter().propose(text, count)


def test_a_repetition_goes_on() -> None:
    """Where the match is near the end, the text is continued with its period."""
    proposal = NgramDrafter().propose([9, 1, 2, 3, 1, 2, 3, 1, 2], 7)
    assert proposal is not None
    assert proposal.token_ids == (3, 1, 2, 3, 1, 2, 3)
