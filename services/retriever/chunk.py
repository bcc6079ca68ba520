"""Cuts text into passages of whole sentences. Knows nothing of documents or encoders."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

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


class Size:
    """How long parts of a text are: in words, for a reader, and in tokens, for the encoder.

    `token_starts` are the characters at which the encoder's tokens begin.
    """

    def __init__(
        self, text: str, max_words: int, token_starts: Sequence[int] = (), max_tokens: int = 0
    ) -> None:
        word_starts = [match.start() for match in _WORD.finditer(text)]
        self._limits: list[tuple[Sequence[int], int]] = [(word_starts, max_words)]
        if max_tokens:
            self._limits.append((token_starts, max_tokens))

    def fits(self, start: int, end: int) -> bool:
        """Return whether a passage may be so long."""
        return all(_between(starts, start, end) <= most for starts, most in self._limits)

    def is_half(self, start: int, end: int) -> bool:
        """Return whether this is half of a passage at least."""
        return any(2 * _between(starts, start, end) >= most for starts, most in self._limits)


def chunk(text: str, size: Size, overlap_sentences: int = 0) -> list[Span]:
    """Passages that fit and cover all of the text but blanks around them.

    A sentence is split only where it alone is longer than a passage. A passage that is at least
    half full ends with its paragraph. Each passage repeats up to `overlap_sentences` of the one
    before it where they fit beside something new.
    """
    spans: list[Span] = []
    held: list[Span] = []
    for piece in _pieces(text, size):
        if held and _ends_before(piece, held, text, size):
            spans.append(Span(held[0].start, held[-1].end))
            held = held[len(held) - overlap_sentences :] if overlap_sentences else []
            while held and not size.fits(held[0].start, piece.end):
                held = held[1:]
        held = [*held, piece]
    return [*spans, Span(held[0].start, held[-1].end)] if held else spans


def halves(text: str, span: Span) -> tuple[Span, Span]:
    """Return two parts of a passage of at least two characters, parted at a blank if possible."""
    middle = (span.start + span.end) // 2
    blank = text.find(" ", middle, span.end - 1)
    border = blank if blank > span.start else middle
    return Span(span.start, border), Span(border, span.end)


def _ends_before(piece: Span, held: list[Span], text: str, size: Size) -> bool:
    if not size.fits(held[0].start, piece.end):
        return True
    half_full = size.is_half(held[0].start, held[-1].end)
    return half_full and _BLANK_LINE.search(text, held[-1].end, piece.start) is not None


def _between(starts: Sequence[int], start: int, end: int) -> int:
    return bisect_left(starts, end) - bisect_left(starts, start)


def _pieces(text: str, size: Size) -> Iterator[Span]:
    """Return the sentences, those that are too long in parts of whole words."""
    for start, end in _sentences(text):
        held: Span | None = None
        for word in _WORD.finditer(text, start, end):
            if held is not None and not size.fits(held.start, word.end()):
                yield held
                held = None
            held = Span(word.start() if held is None else held.start, word.end())
        if held is not None:
            yield held


def _sentences(text: str) -> Iterator[Span]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        if _ABBREVIATION.search(text, max(start, end - _LONGEST_ABBREVIATION), end):
            continue
        yield Span(start, end)
        start = end
    yield Span(start, len(text))
