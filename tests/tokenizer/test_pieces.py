"""Ids to text in portions, against the library's decoding of the whole."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from services.tokenizer.checkpoint import CheckpointError
from services.tokenizer.pieces import Pieces, TextDecoder

CUTS = st.lists(st.integers(0, 60), max_size=20)
with_fixtures = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


def portions(ids: list[int], cuts: list[int]) -> list[list[int]]:
    """The ids, cut at these places."""
    borders = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    return [ids[start:end] for start, end in pairwise(borders)]


def joined(pieces: Pieces, ids: list[int], cuts: list[int]) -> str:
    """What comes out in portions, up to the flush."""
    decoder = TextDecoder(pieces)
    texts = [decoder.push(portion) for portion in portions(ids, cuts)]
    return "".join(texts) + decoder.push([], final=True)


def byte_run_is_broken(tokenizer: Tokenizer, ids: list[int]) -> bool:
    """True where byte tokens in a row are no UTF-8: the library then replaces the whole run."""
    run = bytearray()
    special = set(range(3))
    tokens = [tokenizer.id_to_token(i) for i in ids if i not in special]
    for token in [*filter(None, tokens), ""]:
        if token.startswith("<0x"):
            run.append(int(token[3:5], 16))
            continue
        try:
            run.decode()
        except UnicodeDecodeError:
            return True
        run.clear()
    return False


@with_fixtures
@given(ids=st.lists(st.integers(0, 480), max_size=60), cuts=CUTS)
def test_random_byte_level_ids_add_up(
    byte_level: Tokenizer, ids: list[int], cuts: list[int]
) -> None:
    """Broken UTF-8, special tokens and unknown ids included, the portions equal the whole."""
    assert joined(Pieces.of(byte_level), ids, cuts) == byte_level.decode(ids)


@with_fixtures
@given(ids=st.lists(st.integers(0, 200), max_size=60), cuts=CUTS)
def test_random_metaspace_ids_add_up(metaspace: Tokenizer, ids: list[int], cuts: list[int]) -> None:
    """The first token's spaces are dropped, wherever the first portion ends."""
    assert joined(Pieces.of(metaspace), ids, cuts) == metaspace.decode(ids)


@with_fixtures
@given(ids=st.lists(st.integers(0, 60) | st.integers(0, 400), max_size=40), cuts=CUTS)
def test_random_sentencepiece_ids_add_up(
    sentencepiece: Tokenizer, ids: list[int], cuts: list[int]
) -> None:
    """The portions equal the whole, wherever byte tokens in a row are UTF-8."""
    text = joined(Pieces.of(sentencepiece), ids, cuts)
    assert text == joined(Pieces.of(sentencepiece), ids, [])
    if not byte_run_is_broken(sentencepiece, ids):
        assert text == sentencepiece.decode(ids)


@with_fixtures
@given(text=st.text(max_size=30), cuts=CUTS)
def test_encoded_text_adds_up(tokenizer: Tokenizer, text: str, cuts: list[int]) -> None:
    """Any text of any script equals the library's decoding."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert joined(Pieces.of(tokenizer), ids, cuts) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_characters_come_whole(kind: str, request: pytest.FixtureRequest) -> None:
    """An emoji of several tokens comes with its last one; nothing is replaced on the way."""
    tokenizer = request.getfixturevalue(kind)
    decoder = TextDecoder(Pieces.of(tokenizer))
    ids = tokenizer.encode("🦊🦊", add_special_tokens=False).ids
    texts = [decoder.push([token_id]) for token_id in ids]
    assert [text for text in texts if text.strip()] == ["🦊", "🦊"]
    assert texts[-1] == "🦊"


@pytest.mark.parametrize(
    ("kind", "tail"), [("byte_level", "\ufffd"), ("sentencepiece", "\ufffd" * 3)]
)
def test_an_incomplete_end_is_replaced_only_at_the_end(
    kind: str, tail: str, request: pytest.FixtureRequest
) -> None:
    """Half a character waits, and is replaced as the library does when no more comes."""
    tokenizer = request.getfixturevalue(kind)
    decoder = TextDecoder(Pieces.of(tokenizer))
    ids = tokenizer.encode("a🦊", add_special_tokens=False).ids[:-1]
    assert decoder.push(ids) == "a"
    assert decoder.push([], final=True) == tail
    assert tokenizer.decode(ids) == "a" + tail


def test_whole_characters_before_a_broken_byte_run_stay(sentencepiece: Tokenizer) -> None:
    """What was given out is not taken back: the library would replace the fox too."""
    fox = sentencepiece.encode("🦊", add_special_tokens=False).ids
    decoder = TextDecoder(Pieces.of(sentencepiece))
    assert decoder.push([*fox, fox[-1]], final=True) == "🦊\ufffd"


def test_other_decoders_are_refused() -> None:
    """A vocabulary whose text would come out wrong is an error at the start."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(CheckpointError, match="not supported"):
        Pieces.of(tokenizer)
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(CheckpointError, match="WordPiece"):
        Pieces.of(tokenizer)
