"""Stop strings, against a search of the whole text."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from services.tokenizer.stops import Scanned, StopFinder

TEXTS = st.text(alphabet="ab", max_size=40)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=6), min_size=1, max_size=3)


def reference(text: str, stops: list[str], include: bool, num_early: int = 0) -> Scanned:
    """The match that ends first, the longest of those, by looking at every end in turn."""
    for end in range(num_early + 1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            found = max(ending, key=len)
            return Scanned(text[: end if include else end - len(found)], found)
    return Scanned(text)


def scan(text: str, cuts: list[int], finder: StopFinder, num_early: int = 0) -> Scanned:
    """Feeds the text in portions, as a stream would."""
    borders = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    given_out = ""
    for start, end in pairwise(borders):
        portion, stop = finder.feed(text[start:end], max(0, num_early - start))
        given_out += portion
        if stop is not None:
            return Scanned(given_out, stop)
    return Scanned(given_out + finder.flush())


@example("aaab", ["aab"], [2], False, 0)  # the end of one attempt begins the next
@example("abaababaabaab", ["abaabaa"], [], False, 0)
@example("aaaa", ["aa"], [], False, 2)  # one that counts overlaps with one that does not
@given(TEXTS, STOPS, st.lists(st.integers(0, 40)), st.booleans(), st.integers(0, 20))
def test_any_portions_equal_a_search_of_the_whole(
    text: str, stops: list[str], cuts: list[int], include: bool, num_early: int
) -> None:
    """Text, stop string and its place do not depend on how the text was cut.

    What ends among the early characters is passed over.
    """
    expected = reference(text, stops, include, num_early)
    assert scan(text, cuts, StopFinder(stops, include=include), num_early) == expected


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    """Text goes out as early as it can."""
    finder = StopFinder(["\n\nUser:"])
    assert finder.feed("one\n") == ("one", None)
    assert finder.feed("two\n\nUse") == ("\ntwo", None)
    assert finder.feed("less") == ("\n\nUseless", None)


def test_an_included_stop_string_holds_nothing_back() -> None:
    """Nothing needs to be taken back when the stop string stays in the text."""
    finder = StopFinder(["END"], include=True)
    assert finder.feed("the E") == ("the E", None)
    assert finder.feed("ND of") == ("ND", "END")


def test_the_longest_of_stop_strings_that_end_together_wins() -> None:
    """Nothing of the longer stop string is left in the text."""
    assert StopFinder(["b", "aab"]).feed("xaab") == ("x", "aab")
