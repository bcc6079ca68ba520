"""A dropped prefix, against the whole text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tokenizer.prefix import PrefixFilter

WORDS = st.text(alphabet="ab", max_size=8)


@given(WORDS, WORDS, st.lists(st.integers(0, 8)))
def test_any_portions_equal_the_whole(text: str, prefix: str, cuts: list[int]) -> None:
    """The prefix is dropped where the text begins with all of it, however the text is cut."""
    tested = PrefixFilter(prefix)
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    released = "".join(tested.feed(text[start:end]) for start, end in pairwise(borders))
    assert released + tested.feed("", final=True) == text.removeprefix(prefix)
    assert tested.num_dropped == len(text) - len(text.removeprefix(prefix))


@pytest.mark.parametrize(("text", "whole"), [("\n", "\n"), ("\n\n", ""), ("", "")])
def test_a_text_that_ends_early(text: str, whole: str) -> None:
    """A part of the prefix is text like any other; all of it is dropped."""
    tested = PrefixFilter("\n\n")
    assert tested.feed(text) == ""
    assert tested.feed("", final=True) == whole


def test_text_is_held_back_only_until_it_differs() -> None:
    """What cannot become the prefix any more goes out at once."""
    tested = PrefixFilter("\n\n")
    assert (tested.feed("\n"), tested.is_decided) == ("", False)
    assert (tested.feed("x"), tested.is_decided) == ("\nx", True)
    assert tested.feed("\n\n") == "\n\n"
