"""What the bench of grounding texts counts as right, as a citation and as a refusal."""

import pytest

from bench.grounding.cases import Case
from bench.grounding.figures import Reply, figures
from bench.grounding.wordings import WORDINGS

PASSAGES = ("The pool closes at six.", "The old ferry to Holm leaves at nine from the pier.")
CASE = Case(0, "When does the ferry leave?", "at nine", PASSAGES, 2, True)
ABSENT = Case(1, "Who built the ferry?", "", PASSAGES, 0, True)


@pytest.mark.parametrize(
    ("text", "right", "cited", "sound"),
    [
        ("[2] The ferry leaves at nine.", True, True, True),
        ("It leaves At Nine [2].", True, True, True),
        ("[1] It leaves at nine.", True, False, False),
        ("[1] [2] It leaves at nine.", True, False, False),
        ("It leaves at nine.", True, False, False),
        ("[2] It leaves at ninety.", False, True, False),
        ("[2] It leaves at nine. The passage does not say when.", True, True, False),
    ],
)
def test_an_answer_is_sound_where_it_can_be_checked(
    text: str, right: bool, cited: bool, sound: bool
) -> None:
    """Right, with the right passage alone, and not taken back."""
    reply = Reply(CASE, text)
    assert (reply.is_right, reply.is_cited, reply.is_sound) == (right, cited, sound)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("The passages do not say.", True),
        ("[1] the passages do not say", True),
        ("The passages do not say when, but it leaves at nine.", False),
        ("", False),
    ],
)
def test_a_refusal_is_the_whole_reply(text: str, refusal: bool) -> None:
    """Citations, letter case and the full stop aside."""
    assert Reply(ABSENT, text).is_refusal is refusal


def test_a_copy_begins_as_its_passage() -> None:
    """Word for word, in whatever letter case."""
    assert Reply(CASE, "[2] the old ferry to Holm leaves at nine from the pier").is_copy
    assert not Reply(CASE, "[2] It leaves at nine from the pier.").is_copy


def test_figures_are_split_by_number_and_passages() -> None:
    """Even questions chose, odd ones are held out; what ends well as served is counted once."""
    alone = Case(0, CASE.question, CASE.answer, PASSAGES[1:], 1, True)
    missed = Case(2, CASE.question, CASE.answer, PASSAGES[1:], 1, False)
    absent = Case(1, ABSENT.question, "", PASSAGES[:1], 0, True)
    texts = {alone: "[1] At nine.", missed: "[1] At nine.", absent: "The passages do not say."}
    rows = figures(Reply(case, text) for case, text in texts.items())
    counts = {name: row["1 passages"] for name, row in rows.items()}
    assert (counts["all"]["sound"], counts["all"]["served"]) == (2, 2)
    assert (counts["chosen on"]["answerable"], counts["chosen on"]["served"]) == (2, 1)
    assert (counts["held out"]["refusals"], counts["held out"]["served"]) == (1, 1)


def test_every_wording_shows_its_passages() -> None:
    """As a model's file would have to."""
    for name, wording in WORDINGS.items():
        grounding = wording.grounding
        assert type(grounding).parse(grounding.text()) == grounding, name
