"""What replies are worth: pure functions of cases and texts."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bench.grounding.cases import NUM_PASSAGES, Case
from training.evaluate import bounded
from training.grounding import REFUSAL

_CITATION = re.compile(r"\s*\[(\d+)\]")
_DENIAL = re.compile(
    r"\b(passages?|text|answer)\b[^.]{0,40}\b(do|does|is|are) not\b", re.IGNORECASE
)
_WORDS_COPIED = 8


class Reply(NamedTuple):
    """A case with the text that it got."""

    case: Case
    text: str

    @property
    def is_right(self) -> bool:
        """True where the answer's text occurs, as `training.evaluate` counts it."""
        return bounded(self.case.answer, _CITATION.sub("", self.text))

    @property
    def is_cited(self) -> bool:
        """True where the right passage is cited, and no other."""
        return set(_CITATION.findall(self.text)) == {str(self.case.source)}

    @property
    def is_refusal(self) -> bool:
        """True where the reply is the refusal, citations and letter case aside."""
        return _CITATION.sub("", self.text).strip(" .").lower() == REFUSAL.strip(".").lower()

    @property
    def is_sound(self) -> bool:
        """True for a right answer with its citation that nothing in it takes back."""
        return self.is_right and self.is_cited and not _DENIAL.search(self.text)

    @property
    def is_copy(self) -> bool:
        """True where the reply holds the beginning of the right passage word for word."""
        start = _words(self.case.passages[self.case.source - 1])[:_WORDS_COPIED]
        return " ".join(start) in " ".join(_words(self.text))


class Selection(NamedTuple):
    """Which questions count, by their numbers."""

    name: str
    holds: Callable[[int], bool]


SELECTIONS = (
    Selection("chosen on", lambda number: number % 2 == 0),
    Selection("held out", lambda number: number % 2 == 1),
    Selection("all", lambda number: True),
)


def figures(replies: Iterable[Reply]) -> dict[str, dict[str, dict[str, int]]]:
    """Return counts by selection and by number of passages.

    `served` counts the questions that end well where the retriever chooses: with a sound answer, or
    with a refusal where no passage of the collection has one.
    """
    known = list(replies)
    return {
        selection.name: {
            f"{count} passages": _counts(
                [
                    each
                    for each in known
                    if len(each.case.passages) == count and selection.holds(each.case.number)
                ]
            )
            for count in NUM_PASSAGES
        }
        for selection in SELECTIONS
    }


def _counts(replies: list[Reply]) -> dict[str, int]:
    answerable = [each for each in replies if each.case.source]
    absent = [each for each in replies if not each.case.source]
    served = [each for each in replies if each.case.is_retrieved]
    return {
        "answerable": len(answerable),
        "right": sum(each.is_right for each in answerable),
        "cited": sum(each.is_cited for each in answerable),
        "sound": sum(each.is_sound for each in answerable),
        "copied": sum(each.is_copy for each in answerable),
        "refused": sum(each.is_refusal for each in answerable),
        "unanswerable": len(absent),
        "refusals": sum(each.is_refusal for each in absent),
        "served": sum(each.is_sound if each.case.source else each.is_refusal for each in served),
        "questions": len({each.case.number for each in replies}),
    }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
