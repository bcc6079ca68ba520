"""The grounding text: where a model's passages stand, and what its answer begins with."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tokenizer.chat import Message
from services.tokenizer.chat_encoder import ChatEncoder
from services.tokenizer.checkpoint import Checkpoint, CheckpointError
from services.tokenizer.grounding import DEFAULT, Grounding
from tests.tokenizer.conftest import CHATML, MakeFolder

PLAIN = Grounding(system="Use:\n{passages}", user="Q: {question}", answer_start="[")
QUESTION = Message("user", "Why?")


def test_passages_are_numbered_lines() -> None:
    """From 1, and no line break of a passage can begin another one's line."""
    chat = PLAIN.ground([QUESTION], ["one\n[2] two\r\n\t three ", "four"])
    assert chat.messages[0] == Message("system", "Use:\n[1] one [2] two three\n[2] four")


def test_system_messages_become_one() -> None:
    """The caller's stand before the grounding text, the rest keeps its order and its names."""
    chat = PLAIN.ground(
        [
            Message("system", " A "),
            Message("user", "1"),
            Message("developer", "B"),
            Message("assistant", "2"),
            Message("user", "3", "Ann"),
            Message("system", "  "),
        ],
        ["p"],
    )
    assert chat.messages == [
        Message("system", "A\n\nB\n\nUse:\n[1] p"),
        Message("user", "1"),
        Message("assistant", "2"),
        Message("user", "Q: 3", "Ann"),
    ]


def test_passages_beside_the_question() -> None:
    """No system message is made up: the template may have one of its own."""
    beside = Grounding(user="{passages}\n{question}")
    assert beside.ground([QUESTION], ["p"]).messages == [Message("user", "[1] p\nWhy?")]
    alone = beside.ground([Message("system", "S")], ["p"]).messages
    assert alone == [Message("system", "S"), Message("user", "[1] p")]


def test_no_passage_begins_another_answer() -> None:
    """Where nothing was found there is nothing to cite."""
    starts = [DEFAULT.ground([QUESTION], passages).answer_start for passages in (["p"], [])]
    assert starts == [DEFAULT.answer_start, DEFAULT.empty_start]
    assert "[" not in DEFAULT.empty_start


@given(st.text(), st.lists(st.text(), max_size=3))
def test_a_placeholder_in_a_text_stays_text(question: str, passages: list[str]) -> None:
    """Nothing is filled in twice."""
    spelled = [text + "{question}{passages}" for text in passages]
    chat = PLAIN.ground([Message("user", question + "{passages}")], spelled)
    assert chat.messages[-1].content == f"Q: {question}{{passages}}"
    assert chat.messages[0].content.count("{question}{passages}") >= len(passages)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no", "no JSON"),
        ("[]", "no JSON object"),
        ('{"system": 1}', "system: must be a string"),
        ('{"sytem": "{passages}"}', "sytem: is none of system, user"),
        ('{"system": "Be kind."}', "must hold {passages}"),
        ('{"user": "{passages}"}', "user: must hold {question}"),
    ],
)
def test_a_folders_file_that_cannot_be_used_is_refused(
    make_folder: MakeFolder, content: str, words: str
) -> None:
    """At the start, by the field's name."""
    folder = make_folder(chat_template=CHATML)
    (folder / "grounding.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"grounding\.json: ") as caught:
        ChatEncoder(Checkpoint.read(str(folder)))
    assert words in str(caught.value)


def test_a_folder_brings_its_own(make_folder: MakeFolder) -> None:
    """Else the default counts; what is written is what is read."""
    folder = make_folder(chat_template=CHATML)
    assert Grounding.of(Checkpoint.read(str(folder))) == DEFAULT
    (folder / "grounding.json").write_text(PLAIN.text())
    assert Grounding.of(Checkpoint.read(str(folder))) == PLAIN
    assert Grounding.parse(json.dumps({"system": "{passages}"})).user == "{question}"


def test_a_prompt_ends_with_the_answers_start(make_folder: MakeFolder) -> None:
    """Behind what the template writes before an answer; a chat without passages has none."""
    folder: Path = make_folder(chat_template=CHATML)
    (folder / "grounding.json").write_text(PLAIN.text())
    encoder = ChatEncoder(Checkpoint.read(str(folder)))
    grounded = encoder.encode([QUESTION], add_generation_prompt=True, passages=["p"])
    assert grounded.text.endswith("Q: Why?</s>\n<s>assistant\n[")
    assert grounded.answer_start == "["
    plain = encoder.encode([QUESTION], add_generation_prompt=True)
    assert plain.text.endswith("assistant\n") and plain.answer_start == ""
    whole = encoder.encode([QUESTION], add_generation_prompt=False, passages=["p"])
    assert whole.answer_start == "" and not whole.text.endswith("[")
