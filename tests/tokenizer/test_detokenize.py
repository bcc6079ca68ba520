"""Sequences of a stream: portions, stop strings, and what becomes of stopped ones."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mesh.errors import Code, MeshError
from services.tokenizer.detokenize import Added, Detokenizer, TextOptions, TextSequence
from services.tokenizer.pieces import Pieces, TextDecoder


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text alone."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    ids=st.lists(st.integers(0, 420), max_size=50),
    stops=st.lists(st.sampled_from(["a", "qu", "😀", " the", "\ufffd", "o x"]), max_size=3),
    include=st.booleans(),
)
def test_ids_one_by_one_equal_the_whole_text_cut_at_the_stop(
    byte_level: Tokenizer, ids: list[int], stops: list[str], include: bool
) -> None:
    """Stop strings are found across token borders, in whatever the ids say."""
    whole = byte_level.decode(ids)
    ends = [(whole.find(s) + len(s), -len(s)) for s in stops if s in whole]
    expected, stopped = whole, False
    if ends:
        end, length = min(ends)
        expected, stopped = whole[: end if include else end + length], True
    sequence = TextSequence(Pieces.of(byte_level), TextOptions(stops, include))
    text = ""
    for position in range(len(ids) + 1):
        last = position == len(ids)
        scanned = sequence.push([] if last else [ids[position]], final=last)
        text += scanned.text
        if scanned.stop is not None:
            break
    assert (text, scanned.stop is not None) == (expected, stopped)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ids=st.lists(st.integers(0, 420), max_size=30), cut=st.integers(0, 30))
def test_ids_after_the_stop_are_counted(byte_level: Tokenizer, ids: list[int], cut: int) -> None:
    """However many ids come at once, as many are used as one by one."""
    used = TextSequence(Pieces.of(byte_level), TextOptions(["e", "qu"]))
    num_used = next((n for n, i in enumerate(ids, 1) if used.push([i]).stop), None)
    sequence = TextSequence(Pieces.of(byte_level), TextOptions(["e", "qu"]))
    first = sequence.push(ids[:cut])
    if first.stop is None:
        cut, first = len(ids), sequence.push(ids[cut:])
    assert (num_used is not None) == (first.stop is not None)
    if num_used is not None:
        assert len(ids[:cut]) - first.num_unused == num_used


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    ids=st.lists(st.integers(0, 420), max_size=30),
    stops=st.lists(st.sampled_from(["a", "qu", "e", " the", "o x"]), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=5),
    min_tokens=st.integers(0, 20),
    include=st.booleans(),
    prefix=st.sampled_from(["", "t", "the", "e"]),
)
def test_a_stop_string_ends_the_text_after_min_tokens_only(
    byte_level: Tokenizer,
    ids: list[int],
    stops: list[str],
    cuts: list[int],
    min_tokens: int,
    include: bool,
    prefix: str,
) -> None:
    """The first to be complete with a later id, wherever it began; the prefix does not count."""
    pieces = Pieces.of(byte_level)
    decoder = TextDecoder(pieces)
    texts = [decoder.push([i]) for i in ids]
    early = "".join(texts[:min_tokens])
    whole = "".join(texts) + decoder.push([], final=True)
    if len(ids) <= min_tokens:
        early = whole
    num_dropped = len(whole) - len(whole.removeprefix(prefix))
    text, num_early = whole[num_dropped:], max(0, len(early) - num_dropped)
    ends = [end for end in range(num_early + 1, len(text) + 1) if text[:end].endswith(tuple(stops))]
    expected = text
    if ends:
        longest = max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
        expected = text[: ends[0] if include else ends[0] - longest]
    options = TextOptions(stops, include, min_tokens, prefix)
    sequence, found, stop = TextSequence(pieces, options), "", None
    borders = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    for start, end in pairwise(borders):
        added = sequence.push(ids[start:end], final=end == len(ids))
        found, stop = found + added.text, added.stop
        if stop is not None or end == len(ids):
            break
    assert (found, stop is not None) == (expected, bool(ends))


def test_a_passed_over_stop_string_leaves_the_later_one(byte_level: Tokenizer) -> None:
    """With more than min_tokens ids in, a match ends the text, even one that began earlier."""
    ids = encode(byte_level, "x") * 6
    pieces = Pieces.of(byte_level)
    for min_tokens, num_used in ((0, 2), (1, 2), (2, 3), (4, 5)):
        sequence = TextSequence(pieces, TextOptions(["xx"], True, min_tokens))
        assert sequence.push(ids) == Added("x" * num_used, "xx", 6 - num_used)
    assert TextSequence(pieces, TextOptions(["xx"], True, 6)).push(ids).stop is None


def test_stop_strings_look_behind_the_dropped_prefix(byte_level: Tokenizer) -> None:
    """A stop string in the prefix ends nothing; ids whose text is dropped are used."""
    sequence = TextSequence(Pieces.of(byte_level), TextOptions(["\n"], skip_prefix="\n\n"))
    assert sequence.push(encode(byte_level, "\n")) == Added("")
    assert sequence.push(encode(byte_level, "\nfox")) == Added("fox")
    assert sequence.push(encode(byte_level, "\n")).stop == "\n"


def test_endlessly_broken_output_does_not_pile_up(byte_level: Tokenizer) -> None:
    """A byte that cannot begin a character is replaced at once, so no window ever grows."""
    pieces = Pieces.of(byte_level)
    sequence = TextSequence(pieces, TextOptions(["never there"]))
    broken = [pieces_id(pieces, b"\x80")]
    assert all(sequence.push(broken).text == "\ufffd" for _ in range(1_000))
    assert sequence.push([], final=True).text == ""


def pieces_id(pieces: Pieces, piece: bytes) -> int:
    """The id that adds these bytes."""
    return next(i for i, found in pieces.by_id.items() if found == piece)


def test_a_stopped_sequence_is_not_created_again(byte_level: Tokenizer) -> None:
    """What comes late for it is ignored, up to its final message, which frees the name."""
    detokenizer = Detokenizer(Pieces.of(byte_level))
    ids = encode(byte_level, "the fox")
    assert detokenizer.push("s", ids, TextOptions(["fox"])) == Added("the ", "fox", 0)
    assert len(detokenizer) == 0
    assert detokenizer.push("s", ids) == Added("", None, 0)
    assert detokenizer.push("s", ids, final=True) == Added("", None, 0)
    assert repr(detokenizer) == "<Detokenizer live=0 stopped=0>"
    assert detokenizer.push("s", ids, final=True) == Added("the fox", None, 0)


def test_final_flushes_and_forgets(byte_level: Tokenizer) -> None:
    """What might have begun a stop string comes out at the end."""
    detokenizer = Detokenizer(Pieces.of(byte_level))
    assert detokenizer.push("s", encode(byte_level, "so f"), TextOptions(["fox"])) == Added(
        "so ", None, 0
    )
    assert detokenizer.push("s", [], final=True) == Added("f", None, 0)
    assert len(detokenizer) == 0


def test_a_stop_string_may_end_in_the_flush(byte_level: Tokenizer) -> None:
    """Half a character that is replaced at the end is searched too."""
    pieces = Pieces.of(byte_level)
    detokenizer = Detokenizer(pieces)
    ids = [pieces_id(pieces, b"\xf0")]
    assert detokenizer.push("s", ids, TextOptions(["\ufffd"]), final=True) == Added("", "\ufffd", 0)


def test_sequences_do_not_mix(byte_level: Tokenizer) -> None:
    """Halves of characters of two sequences stay apart."""
    detokenizer = Detokenizer(Pieces.of(byte_level))
    one, two = encode(byte_level, "é🦊"), encode(byte_level, "ü🐢")
    texts = {"one": "", "two": ""}
    for position in range(max(len(one), len(two))):
        texts["one"] += detokenizer.push("one", one[position : position + 1]).text
        texts["two"] += detokenizer.push("two", two[position : position + 1]).text
    assert texts == {"one": "é🦊", "two": "ü🐢"}


def test_live_and_remembered_sequences_are_bounded(byte_level: Tokenizer) -> None:
    """One more is refused; of stopped ones the oldest is forgotten first."""
    detokenizer = Detokenizer(Pieces.of(byte_level), limit=2)
    fox = encode(byte_level, "fox")
    for name in "abc":
        assert detokenizer.push(name, fox, TextOptions(["x"])).stop == "x"
    assert repr(detokenizer) == "<Detokenizer live=0 stopped=2>"
    detokenizer.push("d", [])
    detokenizer.push("e", [])
    with pytest.raises(MeshError) as caught:
        detokenizer.push("f", [])
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
