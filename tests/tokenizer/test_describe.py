"""Tokens by themselves, and their places in texts that they were decoded to or encoded from."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from services.tokenizer.describe import TokenDescriber
from services.tokenizer.pieces import REPLACEMENT, Pieces
from services.tokenizer.spans import TokenPiece

with_fixtures = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


def check(text: str, tokens: Sequence[TokenPiece]) -> None:
    """Offsets never fall or pass the end, and point at what the token adds."""
    offsets = [token.offset for token in tokens]
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(text) for offset in offsets)
    for token in tokens:
        if token.data and not token.data[0] & 0x80:
            assert text[token.offset] in (chr(token.data[0]), REPLACEMENT)


def test_a_token_by_itself(sentencepiece: Tokenizer) -> None:
    """It keeps its space and has its bytes; a special token has a name, an unknown id nothing."""
    describer = TokenDescriber(Pieces.of(sentencepiece))
    ids = [sentencepiece.token_to_id(token) for token in ("▁", "<0xF0>", "</s>")]
    assert describer.each([*ids, 9_999]) == [
        TokenPiece(b" "),
        TokenPiece(b"\xf0"),
        TokenPiece(b"", "</s>"),
        TokenPiece(b""),
    ]


@with_fixtures
@given(ids=st.lists(st.integers(0, 420), max_size=30))
def test_ids_within_their_own_text(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Where the text shows special tokens by their names, they add them."""
    text = tokenizer.decode(ids, skip_special_tokens=False)
    tokens = TokenDescriber(Pieces.of(tokenizer)).within(ids, text)
    assert len(tokens) == len(ids)
    if REPLACEMENT not in text:
        assert b"".join(token.data for token in tokens).decode() == text
    check(text, tokens)


@with_fixtures
@given(text=st.text(alphabet="the qéuick 日😀 o", min_size=1, max_size=30))
def test_ids_within_the_text_they_were_made_of(byte_level: Tokenizer, text: str) -> None:
    """A start token that the text does not show adds nothing; the others join to the text."""
    ids = byte_level.encode(text).ids
    start, *tokens = TokenDescriber(Pieces.of(byte_level)).within(ids, text)
    assert start == TokenPiece(b"", "<s>")
    assert b"".join(token.data for token in tokens).decode() == text
    check(text, tokens)


def test_a_broken_run_of_byte_tokens(sentencepiece: Tokenizer) -> None:
    """The library replaces each byte of it, those that are characters included."""
    ids = [sentencepiece.token_to_id(token) for token in ("x", "<0x61>", "<0x80>", "x")]
    text = sentencepiece.decode(ids)
    assert text == f"x{REPLACEMENT}{REPLACEMENT}x"
    tokens = TokenDescriber(Pieces.of(sentencepiece)).within(ids, text)
    assert [token.offset for token in tokens] == [0, 1, 2, 3]


def test_a_blank_in_a_broken_run_of_byte_tokens(sentencepiece: Tokenizer) -> None:
    """It is replaced too, and no blank that the text lost at its start."""
    names = ("<0x20>", "<0x80>", "<unk>", "<0x80>", "<0x00>")
    ids = [sentencepiece.token_to_id(token) for token in names]
    text = sentencepiece.decode(ids, skip_special_tokens=False)
    assert text == f"{REPLACEMENT * 2}<unk>{REPLACEMENT * 2}"
    tokens = TokenDescriber(Pieces.of(sentencepiece)).within(ids, text)
    assert [token.offset for token in tokens] == [0, 1, 2, 7, 8]


def test_a_byte_that_begins_like_its_replacement(sentencepiece: Tokenizer) -> None:
    """The replacement character's first byte is 0xEF, and is not taken for that token's."""
    names = ("<0xEF>", "<0x00>", "<unk>", "<0x00>", "<s>")
    ids = [sentencepiece.token_to_id(token) for token in names]
    text = sentencepiece.decode(ids, skip_special_tokens=False)
    assert text == f"{REPLACEMENT * 2}<unk>\x00<s>"
    tokens = TokenDescriber(Pieces.of(sentencepiece)).within(ids, text)
    assert [token.offset for token in tokens] == [0, 1, 2, 7, 8]


@pytest.mark.parametrize("text", ["the fox</s>the dog", "<s>the</s>", "the 😀 fox", " the"])
def test_names_that_the_text_shows(tokenizer: Tokenizer, text: str) -> None:
    """A prompt may hold the names of special tokens beside a start token that it does not show."""
    start = tokenizer.token_to_id("<s>")
    ids = [start, *tokenizer.encode(text, add_special_tokens=False).ids]
    tokens = TokenDescriber(Pieces.of(tokenizer)).within(ids, text)
    check(text, tokens)
    for token in tokens[1:]:
        if token.name and token.data:
            assert text[token.offset :].startswith(token.name)
    if "fox" in text:
        place = text.index("fox")
        assert [token.offset for token in tokens if token.data.strip() == b"fox"] in (
            [place],
            [place - 1],
            [],
        )


def test_places_behind_what_a_normalizer_changed() -> None:
    """A token that the text does not show stays where it is; the next that it shows is found."""
    pieces = Pieces({0: b"abc", 1: b"\xc3\xa9", 2: b" next"})
    tokens = TokenDescriber(pieces).within([0, 1, 2], "ABCe\u0301 next")
    assert [token.offset for token in tokens] == [0, 0, 5]
