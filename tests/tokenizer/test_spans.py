"""Bytes and offsets of a sequence's tokens, against its text."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from services.tokenizer.detokenize import TextOptions, TextSequence
from services.tokenizer.pieces import REPLACEMENT, Pieces
from services.tokenizer.spans import TokenPiece

IDS = st.lists(st.integers(0, 480), max_size=30)
# single bytes are frequent there, in each of the vocabularies
BYTES = st.lists(st.integers(0, 60) | st.integers(130, 400), max_size=30)
CUTS = st.lists(st.integers(0, 30), max_size=8)
STOPS = st.lists(st.sampled_from(["e", "qu", "😀", " the", REPLACEMENT, "o x"]), max_size=3)
with_fixtures = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


def described(
    pieces: Pieces, ids: Sequence[int], cuts: Sequence[int] = (), **options: Any
) -> tuple[str, list[TokenPiece], int]:
    """The text of some ids in portions, all of its tokens, and how many ids were used."""
    sequence = TextSequence(pieces, TextOptions(describe_tokens=True, **options))
    borders = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    text, tokens, num_used = "", [], 0
    for start, end in pairwise(borders):
        added = sequence.push(ids[start:end], final=end == len(ids))
        text += added.text
        tokens += added.tokens
        num_used = end - added.num_unused
        # never ahead of the text that is out
        assert all(token.offset <= len(text) for token in tokens)
        if added.stop is not None or end == len(ids):
            break
    return text, tokens, num_used


def check(text: str, tokens: Sequence[TokenPiece]) -> None:
    """Bytes join to the text; each offset is that of the character with the token's first byte."""
    joined = b"".join(token.data for token in tokens)
    if REPLACEMENT not in text:
        assert joined.decode() == text
        place = 0
        for token in tokens:
            if token.data:
                whole = text.encode()[: place + 1].decode(errors="ignore")
                before = len(text.encode()[:place].decode(errors="ignore"))
                assert token.offset == before, (token, whole)
            place += len(token.data)
    offsets = [token.offset for token in tokens]
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(text) for offset in offsets)
    for token in tokens:
        if token.data and not token.data[0] & 0x80:
            assert text[token.offset] == chr(token.data[0])


@with_fixtures
@given(ids=IDS | BYTES, cuts=CUTS)
def test_tokens_add_up_to_the_text(tokenizer: Tokenizer, ids: list[int], cuts: list[int]) -> None:
    """Of any ids, byte tokens and special ones included, in any portions."""
    pieces = Pieces.of(tokenizer)
    text, tokens, _ = described(pieces, ids, cuts)
    assert text == TextSequence(pieces).push(ids, final=True).text
    assert len(tokens) == len(ids)
    assert (text, tokens, len(ids)) == described(pieces, ids)
    check(text, tokens)


@with_fixtures
@given(
    ids=IDS | BYTES,
    cuts=CUTS,
    stop=STOPS,
    include_stop=st.booleans(),
    min_tokens=st.integers(0, 6),
    skip_prefix=st.sampled_from(["", " ", "t", " t", "the"]),
)
def test_tokens_add_up_to_a_text_that_is_cut(
    tokenizer: Tokenizer, ids: list[int], cuts: list[int], **options: Any
) -> None:
    """The dropped prefix and what a stop string cuts off are in no token; each used id has one."""
    pieces = Pieces.of(tokenizer)
    text, tokens, num_used = described(pieces, ids, cuts, **options)
    plain = TextSequence(pieces, TextOptions(**options)).push(ids, final=True)
    assert text == plain.text
    assert len(tokens) == num_used == len(ids) - plain.num_unused
    check(text, tokens)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_the_bytes_of_a_character(kind: str, request: pytest.FixtureRequest) -> None:
    """Four tokens of one byte each begin in the one character that they make."""
    pieces = Pieces.of(request.getfixturevalue(kind))
    by_byte = {piece: i for i, piece in pieces.by_id.items()}
    ids = [by_byte[bytes([byte])] for byte in "😀".encode()]
    text, tokens, _ = described(pieces, ids, range(5))
    assert text == "😀"
    assert tokens == [TokenPiece(bytes([byte])) for byte in "😀".encode()]


def test_each_replaced_byte_is_a_character_where_the_text_has_one(sentencepiece: Tokenizer) -> None:
    """Byte fallback shows one replacement per byte, and offsets count them."""
    pieces = Pieces.of(sentencepiece)
    by_byte = {piece: i for i, piece in pieces.by_id.items()}
    ids = [by_byte[bytes([byte])] for byte in b"\xf0\x9f\x61"]
    text, tokens, _ = described(pieces, ids)
    assert text == REPLACEMENT * 2 + "a"
    assert [token.offset for token in tokens] == [0, 1, 2]


def test_a_replaced_part_of_a_character_is_one(byte_level: Tokenizer) -> None:
    """A byte-level text shows one replacement for the part, to which all of its bytes point."""
    pieces = Pieces.of(byte_level)
    by_byte = {piece: i for i, piece in pieces.by_id.items()}
    ids = [by_byte[bytes([byte])] for byte in b"\xf0\x9f\x61"]
    text, tokens, _ = described(pieces, ids)
    assert text == REPLACEMENT + "a"
    assert [token.offset for token in tokens] == [0, 0, 1]


def test_a_special_token_adds_nothing_and_has_its_name(byte_level: Tokenizer) -> None:
    """Within a character, at the start and at the end it is where the next character is."""
    pieces = Pieces.of(byte_level)
    by_byte = {piece: i for i, piece in pieces.by_id.items()}
    first, second = (by_byte[bytes([byte])] for byte in "é".encode())
    end = byte_level.token_to_id("</s>")
    text, tokens, _ = described(pieces, [end, first, end, second, end])
    assert text == "é"
    assert [(token.data, token.name, token.offset) for token in tokens] == [
        (b"", "</s>", 0),
        (b"\xc3", "", 0),
        (b"", "</s>", 0),
        (b"\xa9", "", 0),
        (b"", "</s>", 1),
    ]


@given(st.sampled_from(["fox", "x jumps", "ox", "the"]), st.booleans())
@with_fixtures
def test_a_token_comes_with_its_last_character(
    byte_level: Tokenizer, stop: str, include_stop: bool
) -> None:
    """Of text that is held back no token is told; a token that is cut has what was kept."""
    ids = byte_level.encode("the quick brown fox jumps", add_special_tokens=False).ids
    assume(ids)
    sequence = TextSequence(
        Pieces.of(byte_level), TextOptions([stop], include_stop, describe_tokens=True)
    )
    text, told = "", b""
    for token_id in ids:
        added = sequence.push([token_id])
        text += added.text
        told += b"".join(token.data for token in added.tokens)
        assert text.startswith(told.decode())
        if added.stop is not None:
            break
    assert told.decode() == text
    assert text.endswith(stop) is include_stop or not text
