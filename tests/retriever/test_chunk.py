"""Passages: whole sentences, bounded, and nothing lost."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.retriever.chunk import Size, chunk

TEXTS = st.text(st.sampled_from(list("abcD .!?\n\t,;-*1é字。'\")")) | st.characters(), max_size=400)


def words(text: str) -> int:
    return len(text.split())


@given(TEXTS, st.integers(1, 12), st.integers(0, 3))
def test_passages_cover_the_text_in_order(text: str, most: int, overlap: int) -> None:
    """Every character that is not blank lies in a passage, and passages go forward."""
    spans = chunk(text, Size(text, most), overlap)
    covered = {i for span in spans for i in range(span.start, span.end)}
    assert all(i in covered or c.isspace() for i, c in enumerate(text))
    assert all(a.start < b.start and a.end < b.end for a, b in pairwise(spans))


@given(TEXTS, st.integers(1, 12), st.integers(0, 3))
def test_passages_are_bounded_and_trimmed(text: str, most: int, overlap: int) -> None:
    """A passage has at most so many words and neither starts nor ends with a blank."""
    for start, end in chunk(text, Size(text, most), overlap):
        passage = text[start:end]
        assert passage == passage.strip() != ""
        assert words(passage) <= most


@given(TEXTS, st.integers(1, 12))
def test_without_overlap_passages_are_disjoint(text: str, most: int) -> None:
    """No character lies in two passages."""
    spans = chunk(text, Size(text, most))
    assert all(a.end <= b.start for a, b in pairwise(spans))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_a_sentence_that_fits_is_never_split(lengths: list[int]) -> None:
    """Passages end where sentences end."""
    text = " ".join(" ".join(["word"] * n) + "." for n in lengths)
    ends = {match.end() for match in re.finditer(r"\.", text)}
    assert all(span.end in ends for span in chunk(text, Size(text, 9)))


def test_an_abbreviation_ends_no_sentence() -> None:
    """Titles, initials and the like stay with what follows them."""
    text = "It was built by Dr. A. Smith in 1871. The tower is tall."
    assert [text[a:b] for a, b in chunk(text, Size(text, 9))] == [
        "It was built by Dr. A. Smith in 1871.",
        "The tower is tall.",
    ]


def test_a_passage_half_full_ends_with_its_paragraph() -> None:
    """A blank line is a better border than a sentence."""
    text = "One two three four five.\n\nSix seven. Eight nine."
    assert [text[a:b] for a, b in chunk(text, Size(text, 8))] == [
        "One two three four five.",
        "Six seven. Eight nine.",
    ]


def test_neighbours_share_sentences_when_asked() -> None:
    """With an overlap of one, each passage opens with the last sentence of the one before."""
    text = "A b c. D e f. G h i. J k l."
    assert [text[a:b] for a, b in chunk(text, Size(text, 6), 1)] == [
        "A b c. D e f.",
        "D e f. G h i.",
        "G h i. J k l.",
    ]


def test_a_long_sentence_is_cut_at_words() -> None:
    """It becomes parts of the full size."""
    text = "word " * 20
    assert [b - a for a, b in chunk(text, Size(text, 8))] == [39, 39, 19]
