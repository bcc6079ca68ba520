"""The shipped tokenizer: exact round trips, single digits, and the training form as template."""

from pathlib import Path

import pytest
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.tokenizer import ROLES, prompt, render_chat

FOLDER = Path(__file__).parents[2] / "models" / "infermesh-tiny"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer as transformers loads it."""
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(FOLDER)
    return loaded


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Hello, world!",
        "  two  spaces \n\n and\tlines ",
        "naïve café — “quotes”",
        "日本語のテキスト",
        "👩‍👩‍👧 🏳️‍🌈 🎉",
        "\x00\x7f\ufeff",
        "Zażółć gęślą jaźń",
        "a\r\nb",
    ],
)
def test_text_survives_the_round_trip(text: str) -> None:
    """Encoding and decoding give the text back, byte for byte."""
    raw = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert raw.decode(raw.encode(text).ids, skip_special_tokens=False) == text


def test_digits_stand_alone() -> None:
    """No token holds more than one digit."""
    raw = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert all(
        sum(sign.isdigit() for sign in token) <= 1
        for token in raw.get_vocab()
        if not token.startswith("<|")
    )
    assert [raw.decode([token]) for token in raw.encode("1962").ids] == list("1962")


def test_name_has_one_form_everywhere(tokenizer: PreTrainedTokenizerBase) -> None:
    """A name at the head of a reply is the same tokens as inside a passage."""
    name = tokenizer.encode(" Mara Voss", add_special_tokens=False)
    reply = tokenizer.encode(f"{ROLES['assistant']} Mara Voss", add_special_tokens=False)
    passage = tokenizer.encode("[1] Mara Voss", add_special_tokens=False)
    assert reply[1:] == name
    assert passage[-len(name) :] == name


def test_template_is_the_training_form(tokenizer: PreTrainedTokenizerBase) -> None:
    """apply_chat_template gives the very ids that training used."""
    chat = [
        {"role": "system", "content": "Be kind.\n\n[1] A passage."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Ann [1]."},
        {"role": "user", "content": " Where? "},
    ]
    whole = tokenizer.apply_chat_template(chat[:3], tokenize=True, return_dict=False)
    trained = render_chat("Be kind.\n\n[1] A passage.", [("Who?", "Ann [1].")])
    assert whole == tokenizer.encode(trained, add_special_tokens=False)
    text = tokenizer.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True)
    assert text == prompt("Be kind.\n\n[1] A passage.", "Who?")
    longer = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert longer == trained + "<|user|> Where?<|end|><|assistant|>"


def test_template_without_system_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """A conversation may begin with the user."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|begin|><|user|> Hi<|end|><|assistant|>" == prompt("", "Hi")


def test_template_refuses_an_unknown_role(tokenizer: PreTrainedTokenizerBase) -> None:
    """A role that was never trained raises."""
    with pytest.raises(TemplateError):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_special_tokens_are_single(tokenizer: PreTrainedTokenizerBase) -> None:
    """Each special token is one id, and the end token is the one that generation stops at."""
    for token in ("<|begin|>", "<|end|>", *ROLES.values()):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    assert tokenizer.eos_token == "<|end|>"
