"""The encoder's own tokens: what a text costs, what fits, and where its tokens begin.

The one place where text meets the encoder's limit. Knows neither torch nor what is embedded.
"""

import re
from array import array
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

TokenIds = Sequence[int]

# characters tokenized at once: a call's offsets take some hundred bytes for each token
_AT_ONCE = 16_384
_BLANK = re.compile(r"\s")


class EncoderTokenizer:
    """The vocabulary of an encoder that reads at most `limit` tokens, special ones included.

    Thread-safe. Raises ValueError where special tokens leave no room.
    """

    def __init__(self, tokenizer: Tokenizer, limit: int) -> None:
        self._tokenizer = tokenizer
        # the encoder pads, and nothing is cut in silence
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.limit = limit
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        (content,), (framed,) = self._ids(["a"], False), self._ids(["a"], True)
        place = next(i for i in range(len(framed)) if framed[i : i + len(content)] == content)
        self._prefix = framed[:place]
        self._suffix = framed[place + len(content) :]
        if self.max_content < 1:
            raise ValueError(f"an encoder of {limit} tokens has no room for a text")

    @property
    def max_content(self) -> int:
        """Tokens of a text that fit beside the special ones."""
        return self.limit - len(self._prefix) - len(self._suffix)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text with the special tokens around them, uncut."""
        return self._ids(texts, True)

    def framed(self, ids: TokenIds) -> list[int]:
        """Return ids with the special tokens around them, which the caller may have added."""
        given, prefix, suffix = list(ids), self._prefix, self._suffix
        has_frame = len(given) >= len(prefix) + len(suffix) and (
            given[: len(prefix)] == prefix and given[len(given) - len(suffix) :] == suffix
        )
        return given if has_frame else [*prefix, *given, *suffix]

    def cut(self, framed: list[int], limit: int, *, keep_end: bool = False) -> list[int]:
        """Return framed ids of at most `limit` tokens, of which the start or the end is kept."""
        if len(framed) <= limit:
            return framed
        content = self._content(framed)
        size = limit - len(self._prefix) - len(self._suffix)
        kept = content[len(content) - size :] if keep_end else content[:size]
        return [*self._prefix, *kept, *self._suffix]

    def windows(self, framed: list[int], overlap: int) -> list[list[int]]:
        """Return framed ids in pieces that fit, each with the last `overlap` of the one before."""
        content, size = self._content(framed), self.max_content
        step = max(1, size - overlap)
        starts = range(0, max(1, len(content) - overlap), step)
        return [[*self._prefix, *content[i : i + size], *self._suffix] for i in starts]

    def starts(self, text: str) -> "array[int]":
        """Return the character at which each token of a text begins, in order."""
        starts = array("I")
        for offset, part in _parts(text):
            encoding = self._tokenizer.encode(part, add_special_tokens=False)
            starts.extend(offset + start for start, _ in encoding.offsets)
        return starts

    def _content(self, framed: list[int]) -> list[int]:
        return framed[len(self._prefix) : len(framed) - len(self._suffix)]

    def _ids(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(
            list(texts), add_special_tokens=add_special_tokens
        )
        return [encoding.ids for encoding in encodings]


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Yield a text in parts that end before a blank where there is one, with their places."""
    start = 0
    while start < len(text):
        end = min(start + _AT_ONCE, len(text))
        if end < len(text):
            blank = _BLANK.search(text, end, min(end + _AT_ONCE, len(text)))
            end = end if blank is None else blank.start()
        yield start, text[start:end]
        start = end
