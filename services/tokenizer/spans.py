"""What each token of a text adds to it and where it begins, byte by byte; knows no vocabulary."""

import codecs
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class TokenPiece(NamedTuple):
    """A token in a text: its UTF-8, which may be a part of a character, and where that begins.

    `offset` is the index of the character that has its first byte; of a token that adds nothing,
    of the character that comes next. `name` is that of a special token.
    """

    data: bytes
    name: str = ""
    offset: int = 0


@dataclass(slots=True, eq=False)
class _Token:
    """`chars` has the index of the decoded character of each of its bytes, as far as it is known;
    `position` the index of the character that came next when the token did."""

    data: bytes
    name: str
    position: int
    chars: list[int] = field(default_factory=list)


class TokenSpans:
    """The tokens of one text in their order, each until its place in the text is certain.

    Characters are counted in all that was decoded; those that never reach the text, at its start
    or behind a stop string, are cut off when tokens are taken. `errors` is the text's codec error
    handler.
    """

    def __init__(self, errors: str) -> None:
        self._widths = _CharacterWidths(errors)
        self._waiting: deque[_Token] = deque()
        # those of them with bytes whose character is not decoded
        self._undecoded: deque[_Token] = deque()
        self._num_chars = 0
        self._last_offset = 0

    def add(self, data: bytes, name: str = "") -> None:
        """Take the next token, with what it adds to all that is decoded."""
        token = _Token(data, name, self._num_chars)
        self._waiting.append(token)
        if data:
            self._undecoded.append(token)
            self._assign(self._widths.push(data))

    def end(self) -> None:
        """Decode what is left of a character that never came."""
        self._assign(self._widths.flush())

    def take(self, num_cut: int, num_chars: int, *, ended: bool = False) -> list[TokenPiece]:
        """Return the next tokens whose place in the text is certain, all that is left once `ended`.

        The text so far is `num_chars` characters, before which `num_cut` were cut off.
        """
        taken: list[TokenPiece] = []
        while self._waiting:
            token = self._waiting[0]
            is_decoded = len(token.chars) == len(token.data)
            is_out = is_decoded and (not token.chars or token.chars[-1] < num_cut + num_chars)
            if not (is_out or ended):
                break
            self._waiting.popleft()
            taken.append(self._placed(token, num_cut, num_chars))
        return taken

    def _assign(self, widths: Iterator[int]) -> None:
        """Give the next undecoded bytes to the next characters, so many to each."""
        for width in widths:
            for _ in range(width):
                token = self._undecoded[0]
                token.chars.append(self._num_chars)
                if len(token.chars) == len(token.data):
                    self._undecoded.popleft()
            self._num_chars += 1

    def _placed(self, token: _Token, num_cut: int, num_chars: int) -> TokenPiece:
        end = num_cut + num_chars
        # bytes that are not decoded lie behind the end
        kept = bytes(
            byte
            for byte, char in zip(token.data, token.chars, strict=False)
            if num_cut <= char < end
        )
        first = token.chars[0] if token.chars else token.position
        self._last_offset = max(self._last_offset, min(max(first - num_cut, 0), num_chars))
        return TokenPiece(kept, token.name, self._last_offset)


class _CharacterWidths:
    """How many bytes each character is made of, as an incremental decoder gives them out."""

    def __init__(self, errors: str) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)
        self._num_pending = 0

    def push(self, data: bytes) -> Iterator[int]:
        """Yield the bytes of each character that these bytes complete."""
        for byte in data:
            text = self._utf8.decode(bytes((byte,)))
            if not text:
                self._num_pending += 1
                continue
            num_pending = len(self._utf8.getstate()[0])
            if len(text) > 1 and not num_pending:
                # the byte is a character of its own, after one that broke off
                yield from _shared(self._num_pending, len(text) - 1)
                yield 1
            else:
                yield from _shared(self._num_pending + 1 - num_pending, len(text))
            self._num_pending = num_pending

    def flush(self) -> Iterator[int]:
        """Yield the bytes of each replacement of a character that never came."""
        yield from _shared(self._num_pending, len(self._utf8.decode(b"", True)))
        self._num_pending = 0


def _shared(num_bytes: int, num_chars: int) -> Iterator[int]:
    """Yield the bytes of each of some characters: of one all of them, of several one each."""
    if num_chars:
        yield from [num_bytes // num_chars] * num_chars
