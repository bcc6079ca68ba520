"""Puts passages, questions and conversations together into the documents of training."""

import random
from dataclasses import dataclass

from services.gateway.grounding import REFUSAL, render
from training.corpus.chat import NO_PASSAGE, THEMES, Chat
from training.corpus.facts import (
    Ask,
    Attribute,
    Entity,
    Fact,
    Facts,
    Kind,
    articles,
    attributes_of,
    capital,
    close,
)
from training.corpus.frames import Frames, Statement
from training.corpus.names import Names
from training.corpus.words import ADJECTIVES, FILLERS, OPENERS

# Clauses to a passage.
ORDINARY = (1, 2, 3, 3, 4, 4, 5, 6)
BRIEF = (1, 1, 1, 2)
PLANS = (
    *("alike", "alike", "one", "one"),
    *("mixed", "mixed", "mixed"),
    *("open", "blend"),
)
LEADS = (
    "Please tell me: ",
    "I would like to know: ",
    "Quick question: ",
    "Thanks. ",
    "And another one: ",
    "One more question. ",
    "Hello! ",
    "Hi, ",
)
WRAPS = (
    "Can you tell me ",
    "Do you know ",
    "Could you tell me ",
    "I want to know ",
    "Does it say ",
    "Please tell me ",
)
SAYS = (
    "According to the passages,",
    "According to the text,",
    "From the passages,",
    "If the text says so,",
    "In these notes,",
)


@dataclass(frozen=True)
class Exchange:
    """A question, its reply as the model should give it, and how to judge it.

    `span` is empty, and `source` 0, when the passages do not answer.
    """

    question: str
    reply: str
    span: str = ""
    source: int = 0
    held_out: bool = False


@dataclass(frozen=True)
class Document:
    """A conversation: its system text, passages if it has any, and its exchanges."""

    system: str
    passages: tuple[str, ...]
    exchanges: tuple[Exchange, ...]


@dataclass
class Sheet:
    """Passages under way: their sentences, and which facts and statements they hold."""

    passages: list[str]
    stated: list[tuple[Entity, Fact, int]]
    frames: list[tuple[Statement, int]]
    entities: list[Entity]


class Documents:
    """A stream of documents from one seed and one half of the names."""

    def __init__(
        self,
        seed: int | str,
        held_out_names: bool = False,
        held_out_templates: bool = False,
        long: bool = False,
    ) -> None:
        self.long = long
        self.rng = random.Random(seed)
        self.names = Names(self.rng, held_out_names)
        self.facts = Facts(self.rng, self.names)
        self.frames = Frames(self.rng, self.names)
        self.chat = Chat(self.rng, self.names)
        self.held_out_templates = held_out_templates
        self.lengths: tuple[int, ...] = ORDINARY

    def document(self) -> Document:
        """One training document: mostly passages with questions, at times small talk."""
        roll = self.rng.random()
        if roll < 0.1:
            return self.talk()
        if roll < 0.4:
            return self.grounded(self.rng.randint(3, 7), self.rng.randint(5, 9), brief=True)
        if self.long and roll < 0.6:
            return self.grounded(self.rng.choice((4, 5, 6, 8)), self.rng.randint(6, 14))
        return self.grounded(
            self.rng.choice((1, 1, 2, 2, 3, 3, 4, 4, 4, 4)), self.rng.randint(3, 8)
        )

    def talk(self) -> Document:
        """A conversation without passages."""
        turns = self.chat.conversation()
        if self.rng.random() < 0.1:
            entity = self.facts.entity(self.facts.kind())
            options = self.facts.options(entity)
            if options:
                ask = self.facts.ask(entity, self.rng.choice(options), "")
                turns.append((ask.question, self.rng.choice(NO_PASSAGE)))
        return Document(self.chat.system(), (), tuple(Exchange(*turn) for turn in turns))

    def grounded(
        self, count: int, questions: int, refusals: float = 0.17, brief: bool = False
    ) -> Document:
        """`count` passages and up to `questions` exchanges about them.

        Brief passages are a sentence or two: there the number of a passage is close to its words,
        and to cite is learnt first.
        """
        self.lengths = BRIEF if brief else ORDINARY
        sheet = self.sheet(count)
        system = self.chat.system() if self.rng.random() < 0.15 else ""
        exchanges: list[Exchange] = []
        answered = self._answered(sheet)
        self.rng.shuffle(answered)
        for _ in range(questions):
            if self.rng.random() < refusals:
                exchanges.append(self._refused(sheet))
            elif answered:
                exchanges.append(answered.pop())
        if self.rng.random() < 0.04:
            exchanges.append(Exchange(*self.chat.small()))
        return Document(render(sheet.passages, system), tuple(sheet.passages), tuple(exchanges))

    def sheet(self, count: int) -> Sheet:
        """Passages by one of several plans: alike, of one thing, mixed or open."""
        sheet = Sheet([], [], [], [])
        rng = self.rng
        plan = rng.choice(PLANS)
        kind = self.facts.kind()
        entity = self.facts.entity(kind)
        shared = self._shared(kind)
        for _ in range(count):
            if plan == "alike":
                self._profile(sheet, self.facts.entity(kind), shared)
            elif plan == "one":
                self._profile(sheet, entity, [])
            elif plan == "mixed":
                self._profile(sheet, self.facts.entity(self.facts.kind()), [])
            elif plan == "open":
                self._open(sheet)
            else:
                rng.choice((self._open, self._theme, self._pair, self._fresh))(sheet)
        return sheet

    def _fresh(self, sheet: Sheet) -> None:
        self._profile(sheet, self.facts.entity(self.facts.kind()), [])

    def _shared(self, kind: Kind) -> list[Attribute]:
        options = [
            each for each in attributes_of(kind) if self.held_out_templates or not each.held_out
        ]
        return self.rng.sample(options, min(len(options), self.rng.randint(1, 4)))

    def _choose(self, entity: Entity, shared: list[Attribute]) -> Attribute | None:
        options = self.facts.options(entity)
        if self.held_out_templates:
            unseen = self.facts.options(entity, held_out=True)
            options = unseen if unseen and self.rng.random() < 0.5 else options
        wanted = [each for each in shared if each in options]
        if wanted and self.rng.random() < 0.75:
            return self.rng.choice(wanted)
        return self.rng.choice(options) if options else None

    def _profile(self, sheet: Sheet, entity: Entity, shared: list[Attribute]) -> None:
        """A passage about one thing."""
        rng = self.rng
        index = len(sheet.passages) + 1
        continued = entity in sheet.entities and rng.random() < 0.25
        clauses: list[str] = []
        for _ in range(rng.choice(self.lengths)):
            attribute = self._choose(entity, shared)
            if attribute is None:
                break
            fact = self.facts.learn(entity, attribute)
            first = not clauses and not continued
            mention = (
                "name" if first else rng.choice(("name", "pronoun", "pronoun", "noun", "short"))
            )
            clause = self.facts.clause(entity, fact, mention)
            clauses.append(clause)
            sheet.stated.append((entity, fact, index))
            if mention == "name" and clause.startswith(f"{entity.name} ") and rng.random() < 0.3:
                self._relative(sheet, entity, shared, clauses)
        if entity not in sheet.entities:
            sheet.entities.append(entity)
        intro = []
        if not continued and rng.random() < 0.25:
            intro = [articles(f"{entity.name} is a {rng.choice(ADJECTIVES)} {entity.kind.noun}")]
        sheet.passages.append(self._prose(intro + clauses))

    def _relative(
        self, sheet: Sheet, entity: Entity, shared: list[Attribute], clauses: list[str]
    ) -> None:
        """Puts a second fact into the last clause: `X, which opened in 1962, is in Y`."""
        attribute = self._choose(entity, shared)
        if attribute is None:
            return
        lead = f"{entity.name} "
        fact = self.facts.learn(entity, attribute)
        inner = self.facts.clause(entity, fact, "name")
        sheet.stated.append((entity, fact, len(sheet.passages) + 1))
        if inner.startswith(lead):
            word = "who" if "person" in entity.kind.groups else "which"
            rest = clauses.pop().removeprefix(lead)
            clauses.append(f"{entity.name}, {word} {inner.removeprefix(lead)}, {rest}")
        else:
            clauses.append(inner)

    def _pair(self, sheet: Sheet) -> None:
        """A passage that tells two alike things apart."""
        rng = self.rng
        kind = self.facts.kind()
        one, other = self.facts.entity(kind), self.facts.entity(kind)
        index = len(sheet.passages) + 1
        sentences: list[str] = []
        for _ in range(rng.randint(1, 3)):
            attribute = self._choose(one, [])
            if attribute is None:
                break
            halves = []
            for entity in (one, other):
                fact = self.facts.learn(entity, attribute)
                halves.append(self.facts.clause(entity, fact, "name"))
                sheet.stated.append((entity, fact, index))
            joint = rng.choice((", while ", ", but ", ", and ", ". ", "; "))
            halves[1] = capital(halves[1]) if joint == ". " else halves[1]
            sentences.append(joint.join(halves))
        sheet.entities += [one, other]
        sheet.passages.append(self._prose(sentences, join=0.0))

    def _open(self, sheet: Sheet) -> None:
        """A passage of open sentences, each on its own subject or some on the same."""
        rng = self.rng
        index = len(sheet.passages) + 1
        subject = self.frames.actor() if rng.random() < 0.4 else None
        clauses: list[str] = []
        for _ in range(rng.choice(self.lengths)):
            statement = self.frames.statement(subject if rng.random() < 0.7 else None)
            if any(statement.key == have.key for have, _ in sheet.frames):
                continue
            sheet.frames.append((statement, index))
            clauses.append(statement.text)
        sheet.passages.append(self._prose(clauses, join=0.25))

    def _theme(self, sheet: Sheet) -> None:
        """A passage that answers nothing that is asked."""
        sentences = self.rng.choice(THEMES)[1]
        count = self.rng.randint(2, len(sentences))
        sheet.passages.append(" ".join(self.rng.sample(sentences, count)))

    def _prose(self, clauses: list[str], join: float = 0.3) -> str:
        """Clauses as running text: some joined, some opened, with filler in between."""
        rng = self.rng
        sentences: list[str] = []
        left = list(clauses)
        while left:
            text = left.pop(0)
            if left and rng.random() < join:
                text += rng.choice((" and ", ", and ", "; ", ", while ", ", but ")) + left.pop(0)
            elif rng.random() < 0.12:
                text = f"{rng.choice(OPENERS)} {text}"
            sentences.append(capital(text) + ("" if text.endswith(".") else "."))
            if rng.random() < 0.12:
                sentences.append(rng.choice(FILLERS))
        if rng.random() < 0.08 or not sentences:
            sentences.insert(0, rng.choice(FILLERS))
        return " ".join(sentences)

    def _answered(self, sheet: Sheet) -> list[Exchange]:
        """Every exchange the sheet can answer, one for each fact or statement."""
        made = []
        for entity, fact, source in sheet.stated:
            if self.held_out_templates and not fact.attribute.held_out:
                continue
            alone = sum(entity.kind.noun == other.kind.noun for other in sheet.entities) == 1
            mention = self.rng.choice(("name",) * 6 + ("short", "noun" if alone else "name"))
            ask = self.facts.ask(entity, fact.attribute, fact.value, mention)
            made.append(self._exchange(ask, source, fact.attribute.held_out))
        if not self.held_out_templates:
            for statement, source in sheet.frames:
                made.append(self._exchange(self.rng.choice(statement.asks), source))
        return made

    def _exchange(self, ask: Ask, source: int, held_out: bool = False) -> Exchange:
        return Exchange(
            self._asked(ask.question), f"{ask.answer} [{source}].", ask.span, source, held_out
        )

    def _asked(self, question: str) -> str:
        """The question as typed: at times with a lead, in lower case or without its mark."""
        roll = self.rng.random()
        if roll < 0.03:
            return question[:1].lower() + question[1:]
        if roll < 0.05:
            return question.rstrip("?")
        if roll < 0.08:
            return self.rng.choice(LEADS) + question
        if (
            roll < 0.13
            and not question.startswith(("Who is ", "Who was "))
            and (question.startswith("Who "))
        ):
            return self.rng.choice(WRAPS) + question[:1].lower() + question[1:]
        if roll < 0.15:
            return f"{self.rng.choice(SAYS)} {question[:1].lower()}{question[1:]}"
        return question

    def _refused(self, sheet: Sheet) -> Exchange:
        """A question that the sheet does not answer: near misses first."""
        rng = self.rng
        roll = rng.random()
        ask: Ask | None = None
        if sheet.stated and roll < 0.5:
            ask = self._missing(sheet)
        elif sheet.stated and roll < 0.75:
            entity, fact, _ = rng.choice(sheet.stated)
            ask = self.facts.ask(self.facts.entity(entity.kind), fact.attribute, "")
        elif sheet.frames and roll < 0.9:
            ask = self._swapped(sheet)
        if ask is None:
            entity = self.facts.entity(self.facts.kind())
            options = self.facts.options(entity) if rng.random() < 0.5 else []
            if options:
                ask = self.facts.ask(entity, rng.choice(options), "")
            else:
                ask = rng.choice(self.frames.statement().asks)
        return Exchange(self._asked(ask.question), REFUSAL)

    def _missing(self, sheet: Sheet) -> Ask | None:
        """The right thing with an attribute it lacks, if possible one another thing has."""
        entity = self.rng.choice(sheet.entities)
        lacking = self.facts.options(entity)
        others = [fact.attribute for _, fact, _ in sheet.stated if fact.attribute in lacking]
        pool = others if others and self.rng.random() < 0.6 else lacking
        if not pool:
            return None
        attribute = self.rng.choice(pool)
        assert not any(close(attribute.name, have) for have in entity.facts)
        return self.facts.ask(entity, attribute, "")

    def _swapped(self, sheet: Sheet) -> Ask | None:
        """An open question that a sentence nearly answers, or one about something absent."""
        statement = self.rng.choice(sheet.frames)[0]
        if statement.near and self.rng.random() < 0.7:
            return self.rng.choice(statement.near)
        other = self.frames.statement(self.frames.actor())
        if any(other.key == have.key for have, _ in sheet.frames):
            return None
        asks = [ask for ask in other.asks if ask.span]
        shared = [
            ask for ask in asks if ask.question.split()[0] == statement.asks[0].question.split()[0]
        ]
        return self.rng.choice(shared or asks)
