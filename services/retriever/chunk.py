"""Cuts text into passages of whole sentences. Knows nothing of documents or encoders."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator

from services.retriever.document import Span

# scripts without spaces count by character; a long run without spaces is several words
_DENSE = r"\u3001-\u30ff\u3400-\u9fff\uac00-\ud7af\uff01-\uff60"
_WORD = re.compile(rf"[{_DENSE}]|[^\s{_DENSE}]{{1,32}}")
_SENTENCE_END = re.compile(
    r"[.!?\u2026]{1,16}[\"'\u201d\u2019)\]]{0,8}(?=\s)|[\u3002\uff01\uff1f]+"
    r"|\n(?=[ \t]*(?:\n|[-*\u2022] |\d{1,4}[.)] ))"
)
_ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|Fig|Eq|vs|cf|al|approx|e\.g|i\.e)\.\Z"
)
_LONGEST_ABBREVIATION = 8
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def chunk(text: str, max_words: int, overlap_sentences: int = 0) -> list[Span]:
    """Passages of at most `max_words` words that cover all of the text but blanks around them.

    A sentence is split only where it alone is longer than a passage. A passage that is at least
    half full ends with its paragraph. Each passage repeats up to `overlap_sentences` of the one
    before it where they fit beside something new.
    """
    words = _counter(text)
    spans: list[Span] = []
    held: list[Span] = []
    for piece in _pieces(text, max_words):
        if held and _ends_before(piece, held, text, words, max_words):
            spans.append(Span(held[0].start, held[-1].end))
            held = held[len(held) - overlap_sentences :] if overlap_sentences else []
            while held and words(held[0].start, piece.end) > max_words:
                held = held[1:]
        held = [*held, piece]
    return [*spans, Span(held[0].start, held[-1].end)] if held else spans


def _ends_before(
    piece: Span, held: list[Span], text: str, words: Callable[[int, int], int], max_words: int
) -> bool:
    if words(held[0].start, piece.end) > max_words:
        return True
    half_full = 2 * words(held[0].start, held[-1].end) >= max_words
    return half_full and _BLANK_LINE.search(text, held[-1].end, piece.start) is not None


def _counter(text: str) -> Callable[[int, int], int]:
    starts = [match.start() for match in _WORD.finditer(text)]
    return lambda start, end: bisect_left(starts, end) - bisect_left(starts, start)


def _pieces(text: str, max_words: int) -> Iterator[Span]:
    """Return the sentences, those that are too long in parts."""
    for start, end in _sentences(text):
        words = list(_WORD.finditer(text, start, end))
        for first in range(0, len(words), max_words):
            last = min(first + max_words, len(words)) - 1
            yield Span(words[first].start(), words[last].end())


def _sentences(text: str) -> Iterator[Span]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        if _ABBREVIATION.search(text, max(start, end - _LONGEST_ABBREVIATION), end):
            continue
        yield Span(start, end)
        start = end
    yield Span(start, len(text))
