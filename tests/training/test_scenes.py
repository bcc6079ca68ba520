"""Written scenes: what stands in them can be found, what was left out cannot."""

import random
from pathlib import Path

import pytest

from training.corpus.names import Names, is_held_out
from training.corpus.scenes import Reader, Scene, Scenes, book
from training.corpus.sheets import Sheets
from training.evaluate import bounded

PARCEL = """
# a comment
scene lost parcel
A = {person}
B = {weekday}
C = [a green vase|two books]
- {A} (posted|sent) a parcel on {B}.
? When did {A} (post|send) the parcel? = {A.last} posted it on {B} > B
- Inside was {C}.
? What was in the parcel? = There was {C} in it > C
"""


def read(text: str, folder: Path) -> Reader:
    """A reader of `text`."""
    path = folder / "some.txt"
    path.write_text(text)
    return Reader(path)


def scenes(seed: int = 1) -> Scenes:
    """A source with a seed of its own."""
    rng = random.Random(seed)
    return Scenes(rng, Names(rng))


def test_a_scene_is_filled_alike_in_sentence_question_and_answer(tmp_path: Path) -> None:
    """One value per slot, and a person's last name on demand."""
    reader = read(PARCEL, tmp_path)
    assert reader.wrong == []
    staged = scenes().stage(reader.scenes[0], 1)
    (ask,) = staged.asks
    assert len(staged.sentences) == 1
    assert bounded(ask.span, staged.sentences[0])
    person = staged.sentences[0].split(" posted ")[0].split(" sent ")[0]
    assert person in ask.question
    assert ask.answer == f"{person.split()[-1]} posted it on {ask.span}"


def test_what_a_dropped_sentence_tells_is_missing(tmp_path: Path) -> None:
    """A scene cut to one sentence does not answer the questions of the second."""
    staged = scenes().stage(read(PARCEL, tmp_path).scenes[0], 1)
    assert "What was in the parcel?" in [ask.question for ask in staged.missing]
    assert all(not ask.span for ask in staged.missing)


def test_a_stranger_is_asked_for_where_the_question_names_somebody(tmp_path: Path) -> None:
    """The right question about another person has no answer here."""
    staged = scenes().stage(read(PARCEL, tmp_path).scenes[0], 2)
    strange = [ask.question for ask in staged.missing if ask.question.startswith("When did ")]
    person = staged.sentences[0].split(" posted ")[0].split(" sent ")[0]
    assert strange
    assert person not in strange[0]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("- {Z} came.", "slot Z is not defined"),
        ("- {A} came", "a sentence needs its stop"),
        ("? Who came? = {A} came", "expected `? QUESTION? = ANSWER > SLOT` under a sentence"),
        ("? Who came? = Somebody came > A", "the answer lacks {A}"),
        ("? Did {A} come? = {A} came > A", "the question gives {A} away"),
        ("? When? = On {D} > D", "no sentence so far holds {D}"),
        ("what is this", "expected a scene, a slot, a sentence or a question"),
    ],
)
def test_a_mistake_is_named_with_its_line(row: str, fault: str, tmp_path: Path) -> None:
    """File and line stand before what is wrong."""
    text = f"scene s\nA = {{person}}\nD = {{weekday}}\n- {{A}} went.\n{row}\n"
    assert f"some.txt:5: {fault}" in read(text, tmp_path).wrong


@pytest.mark.parametrize("scene", book(), ids=lambda scene: scene.name)
def test_every_answer_of_the_book_can_be_found(scene: Scene) -> None:
    """The span stands in the passage and in the answer, and nothing is left unfilled."""
    source = scenes()
    for _ in range(4):
        staged = source.stage(scene, 9)
        text = " ".join(staged.sentences)
        for ask in staged.asks:
            assert bounded(ask.span, text), (ask, text)
            assert bounded(ask.span, ask.answer), ask
            assert not set("{}|[]") & set(text + ask.question + ask.answer), ask


def test_names_of_scenes_are_unique() -> None:
    """A name decides whether a scene is held out."""
    names = [scene.name for scene in book()]
    assert len(names) == len(set(names))


def test_held_out_scenes_never_occur_in_training() -> None:
    """Training sees the scenes of one half of the split, the held-out set those of the other."""
    for held_out in (False, True):
        rng = random.Random(5)
        sheets = Sheets(rng, Names(rng), held_out)
        used = [name for _ in range(200) for name in sheets.sheet(3).scenes]
        assert used
        assert {is_held_out(name) for name in used} == {held_out}
