"""Where a sequence ends, by the entries of a GGUF file."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.gguf import GGUFError
from mesh.gguf_vocabulary import CONTROL, TOKEN_TYPES, TOKENS, USER_DEFINED, end_token_ids

NORMAL = 1


def metadata(tokens: dict[str, int], **ids: object) -> dict[str, Any]:
    """The entries of a vocabulary, token to type, and what the file says of its ends."""
    entries = {f"tokenizer.ggml.{name}_token_id": value for name, value in ids.items()}
    return {TOKENS: [*tokens], TOKEN_TYPES: [*tokens.values()], **entries}


FAMILIES = {
    "llama 3": (("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"), 1, (1, 2, 3)),
    "phi 3": (("<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|end|>"), 2, (2, 1, 4)),
    "gemma": (("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), 1, (1, 3)),
    "qwen": (("<|endoftext|>", "<|im_start|>", "<|im_end|>"), 0, (0, 2)),
    "llama 2": (("<s>", "</s>", "[INST]"), 1, (1,)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_turn_ends_its_answer(family: str) -> None:
    """Also where the file names the end of the text alone, which comes first."""
    tokens, eos, expected = FAMILIES[family]
    entries = metadata(dict.fromkeys(("word", *tokens), CONTROL), eos=eos + 1)
    assert end_token_ids(entries) == tuple(token_id + 1 for token_id in expected)


@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED])
def test_a_name_ends_only_as_a_control_token(kind: int) -> None:
    """Text may say `</s>`."""
    assert end_token_ids(metadata({"a": NORMAL, "</s>": kind})) == ()


def test_the_files_ends_come_first_and_once() -> None:
    """Of the text, of a turn, of a message; then those that only their names tell."""
    tokens = {"<|eot_id|>": CONTROL, "a": NORMAL, "b": NORMAL, "c": NORMAL}
    assert end_token_ids(metadata(tokens, eom=1, eot=2, eos=3)) == (3, 2, 1, 0)
    assert end_token_ids(metadata(tokens, eos=2, eot=2, eom=0)) == (2, 0)


@pytest.mark.parametrize("others", [("<|return|>", "<|call|>"), ("<|calls|>", "<|flush|>")])
def test_a_message_among_several_is_no_end(others: tuple[str, str]) -> None:
    """`<|end|>` closes one of them where others end the answer, unless the file says it does."""
    tokens = dict.fromkeys(("<|end|>", *others), CONTROL)
    assert end_token_ids(metadata(tokens)) == (1, 2)
    assert end_token_ids(metadata(tokens, eot=0)) == (0, 1, 2)
    one = dict.fromkeys(("<|end|>", others[0]), CONTROL)
    assert end_token_ids(metadata(one)) == (0, 1)


@pytest.mark.parametrize("name", ["eos", "eot", "eom"])
@pytest.mark.parametrize("token_id", [-1, 2, 2**32 - 1, 1.0, True, "1", [1]])
def test_an_id_that_is_no_token_is_refused(name: str, token_id: object) -> None:
    """Out of the vocabulary, or no whole number; the entry is named."""
    with pytest.raises(GGUFError, match="is not a token") as caught:
        end_token_ids(metadata({"a": NORMAL, "b": NORMAL}, **{name: token_id}))
    assert caught.value.field == f"tokenizer.ggml.{name}_token_id"


def test_a_file_without_a_vocabulary_has_no_ends() -> None:
    """Nor does one whose tokens have no types say which are control tokens."""
    assert end_token_ids({}) == ()
    assert end_token_ids({TOKENS: ["</s>", "<|im_end|>"]}) == ()


@given(
    st.lists(st.sampled_from(["</s>", "<|end|>", "a", "<eos>"]), unique=True),
    st.lists(st.sampled_from([NORMAL, CONTROL])),
    st.integers(0, 5),
)
def test_ends_are_ids_of_the_vocabulary(tokens: list[str], types: list[int], eos: int) -> None:
    """Each once, in the same order at every call; shorter types are no fault."""
    entries = {TOKENS: tokens, TOKEN_TYPES: types, "tokenizer.ggml.eos_token_id": eos}
    try:
        ids = end_token_ids(entries)
    except GGUFError:
        assert eos >= len(tokens)
        return
    assert len({*ids}) == len(ids) and ids[0] == eos
    assert all(0 <= token_id < max(len(tokens), 1) for token_id in ids)
    assert end_token_ids(entries) == ids
