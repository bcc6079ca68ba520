"""Tokens one by one: what each adds to a text by itself, or where in a given text it is."""

from collections.abc import Iterator, Sequence

from services.tokenizer.pieces import REPLACEMENT, Pieces, TextDecoder
from services.tokenizer.spans import TokenPiece, TokenSpans

# how far behind its place a token is looked for where a normalizer changed the text
SEARCH_BYTES = 64
_REPLACED = REPLACEMENT.encode()


class TokenDescriber:
    """Describes the tokens of one vocabulary. Thread-safe: nothing changes after construction."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._shown = pieces.showing_special()

    def each(self, ids: Sequence[int]) -> list[TokenPiece]:
        """Return what each token adds to a text by itself; special tokens add nothing."""
        by_id, name = self._pieces.by_id, self._pieces.name
        return [TokenPiece(by_id.get(token_id, b""), name(token_id)) for token_id in ids]

    def within(self, ids: Sequence[int], text: str) -> list[TokenPiece]:
        """Return where in a text the tokens are that it was decoded to, or encoded from.

        Special tokens add their names where the text shows them. Offsets never fall, and never
        pass the text's end.
        """
        decoder, spans = TextDecoder(self._shown), TokenSpans(self._shown.errors)
        decoded = []
        for token_id in ids:
            spans.add(decoder.piece(token_id), self._pieces.name(token_id))
            decoded.append(decoder.push((token_id,)))
        decoded.append(decoder.push((), final=True))
        spans.end()
        if "".join(decoded) == text:
            return spans.take(decoder.num_stripped, len(text), ended=True)
        return list(self._aligned(ids, text))

    def _aligned(self, ids: Sequence[int], text: str) -> Iterator[TokenPiece]:
        """Find the tokens one behind the other in the text's bytes."""
        cursor, replaced = _Cursor(text), self._replaced(ids)
        for place, token_id in enumerate(ids):
            name = self._pieces.name(token_id)
            data = self._shown.by_id.get(token_id, b"")
            if name:
                yield cursor.special(data, name)
            else:
                yield cursor.replaced(data) if place in replaced else cursor.token(data)

    def _replaced(self, ids: Sequence[int]) -> set[int]:
        """Return the places of byte tokens in runs that are no UTF-8 as a whole.

        The library replaces every byte of such a run; ids without a token are nothing to it.
        """
        replaced: set[int] = set()
        run: list[int] = []

        def end_run() -> None:
            if not _is_utf8(b"".join(self._shown.by_id[ids[place]] for place in run)):
                replaced.update(run)
            run.clear()

        for place, token_id in enumerate(ids):
            if token_id in self._pieces.bytes_by_fallback:
                run.append(place)
            elif token_id in self._shown.by_id:
                end_run()
        end_run()
        return replaced


class _Cursor:
    """A place in the UTF-8 of a text, and the number of characters that begin before it."""

    def __init__(self, text: str) -> None:
        self._data = text.encode()
        self._place = 0
        self._num_begun = 0

    def special(self, data: bytes, name: str) -> TokenPiece:
        """Pass a special token, which the text shows here or does not show."""
        return self._pass(data if self._data.startswith(data, self._place) else b"", name)

    def token(self, data: bytes) -> TokenPiece:
        """Pass a token, which may have got a space before it, or lie behind what was changed."""
        for candidate in (data, data.lstrip(b" ")):
            if self._data.startswith(candidate, self._place):
                return self._pass(candidate)
        if self._data.startswith(_REPLACED, self._place):
            return self.replaced(data)
        end = self._place + SEARCH_BYTES + len(data)
        found = self._data.find(data, self._place, end)
        if found < 0:
            return TokenPiece(data, offset=self._offset)
        self._move(found)
        return self._pass(data)

    def replaced(self, data: bytes) -> TokenPiece:
        """Pass bytes in whose place the text has the character for what is no text."""
        shown = self._data.startswith(_REPLACED, self._place)
        return self._pass(_REPLACED if shown else b"")._replace(data=data)

    @property
    def _offset(self) -> int:
        """The index of the character that the place is in, or before."""
        is_inside = self._place < len(self._data) and not _begins(self._data[self._place])
        return self._num_begun - is_inside

    def _pass(self, data: bytes, name: str = "") -> TokenPiece:
        piece = TokenPiece(data, name, self._offset)
        self._move(self._place + len(data))
        return piece

    def _move(self, place: int) -> None:
        self._num_begun += sum(map(_begins, self._data[self._place : place]))
        self._place = place


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _begins(byte: int) -> bool:
    """Return whether a character begins with this byte of UTF-8."""
    return byte & 0xC0 != 0x80
