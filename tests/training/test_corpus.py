"""Properties of the made text: right spans, true refusals, a clean split, one seed one text."""

import itertools
import random
import re

import pytest

from training.corpus.documents import Document, Documents
from training.corpus.facts import attributes_of, book, close
from training.corpus.names import Names, is_held_out
from training.corpus.words import FIRST_NAMES, NAME_WORDS
from training.evaluate import bounded, held_out
from training.grounding import REFUSAL, render
from training.tokenizer import text_of


def documents(seed: str, count: int, **options: bool) -> list[Document]:
    """`count` training documents."""
    source = Documents(seed, **options)
    return [source.document() for _ in range(count)]


def test_answer_span_stands_in_the_cited_passage() -> None:
    """Every span is in its reply and in the passage that the reply cites."""
    checked = 0
    for document in documents("spans", 600):
        for exchange in document.exchanges:
            if not exchange.span:
                continue
            passage = document.passages[exchange.source - 1]
            assert exchange.span.lower() in passage.lower(), (exchange, passage)
            assert exchange.span.lower() in exchange.reply.lower()
            assert exchange.reply.endswith(f"[{exchange.source}].")
            checked += 1
    assert checked > 800


def test_refused_questions_are_not_answered_elsewhere() -> None:
    """No refused question is asked with an answer by the same document."""
    for document in documents("refusals", 600):
        answered = {each.question for each in document.exchanges if each.span}
        refused = {each.question for each in document.exchanges if each.reply == REFUSAL}
        assert not answered & refused


def test_refused_attribute_is_far_from_every_stated_one() -> None:
    """A missing attribute is never close in meaning to one that the thing has."""
    source = Documents("missing")
    found = 0
    for _ in range(300):
        sheet = source.sheets.sheet(3)
        if not sheet.entities:
            continue
        for entity in sheet.entities:
            names = list(entity.facts)
            assert not any(close(*pair) for pair in itertools.combinations(names, 2))
            lacking = source.facts.options(entity)
            assert not any(close(each.name, name) for each in lacking for name in names)
            found += len(lacking)
    assert found > 1000


def test_refusals_are_a_steady_share() -> None:
    """Between 15 and 30 % of grounded questions have no answer."""
    exchanges = [
        each
        for document in documents("share", 800)
        if document.passages
        for each in document.exchanges
    ]
    refused = sum(each.reply == REFUSAL for each in exchanges)
    assert 0.15 < refused / len(exchanges) < 0.3


def test_same_seed_gives_the_same_text() -> None:
    """A stream of documents is a function of its seed."""
    one, again, other = (
        [text_of(each) for each in documents(seed, 40)] for seed in ("a", "a", "b")
    )
    assert one == again
    assert one != other


def test_names_of_the_two_halves_are_disjoint() -> None:
    """Training words and held-out words never meet."""
    seen = Names(random.Random(1))
    unseen = Names(random.Random(1), held_out=True)
    train = {seen.word() for _ in range(3000)}
    test = {unseen.word() for _ in range(500)}
    assert not train & test
    assert all(map(is_held_out, test))
    assert not any(map(is_held_out, train))


def test_held_out_questions_use_no_invented_word_of_training() -> None:
    """The capitalised words of held-out spans do not occur as invented words in training."""
    written = set(FIRST_NAMES) | set(NAME_WORDS)
    texts = " ".join(text_of(each) for each in documents("names", 400))
    seen = {word for word in re.findall(r"[A-Z][a-z]{4,}", texts) if not is_held_out(word)}
    source = Names(Documents("x").rng, held_out=True)
    people = {word for _ in range(300) for word in re.findall(r"[A-Z][a-z]{4,}", source.person())}
    assert not {word for word in people - written if word in seen}


def test_held_out_templates_never_occur_in_training() -> None:
    """Attributes marked in facts.txt are stated and asked only when they are called for."""
    source = Documents("templates")
    for _ in range(400):
        sheet = source.sheets.sheet(3)
        assert not any(fact.attribute.held_out for _, fact, _ in sheet.stated)
    questions = held_out(3, 40, templates=True)
    assert all(each.exchange.held_out for each in questions)


def test_every_kind_has_attributes_and_every_attribute_a_kind() -> None:
    """facts.txt has no dead entries and every template holds its fields."""
    kinds, attributes = book()
    assert all(len(attributes_of(kind)) >= 2 for kind in kinds)
    for attribute in attributes:
        assert any(attribute.groups & kind.groups for kind in kinds), attribute.name
        assert attribute.says and attribute.asks, attribute.name
        assert all("{v}" in text and "{e}" in text for text in attribute.says), attribute.name
        for question, answer in attribute.asks:
            assert "{e}" in question and "{v}" not in question, attribute.name
            assert "{v}" in answer, attribute.name


def test_no_field_is_left_unfilled() -> None:
    """Generated text holds no template syntax."""
    for document in documents("fields", 300):
        text = text_of(document)
        assert not re.search(r"[{}()]|\bNOUN\b", text), text


def test_system_text_is_what_the_gateway_renders() -> None:
    """A grounded document's system text ends as the gateway renders its passages."""
    for document in documents("render", 100):
        if document.passages:
            assert document.system.endswith(render(document.passages))


@pytest.mark.parametrize(
    ("span", "text", "expected"),
    [
        ("1962", "It opened in 1962.", True),
        ("196", "It opened in 1962.", False),
        ("7.5", "It weighs 7.5 kilograms.", True),
        ("7", "It weighs 7.5 kilograms.", False),
        ("spiders", "Spiders live near it.", True),
        ("Mara Voss", "mara voss did.", True),
        ("$5", "It costs $5.", True),
    ],
)
def test_span_is_judged_by_whole_words(span: str, text: str, expected: bool) -> None:
    """A span counts as found only where it is not part of something longer."""
    assert bounded(span, text) is expected
