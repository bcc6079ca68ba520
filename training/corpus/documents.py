"""Puts passages, questions and conversations together into the documents of training."""

import random
from dataclasses import dataclass

from training.corpus.chat import NO_PASSAGE, Chat
from training.corpus.facts import Ask, close
from training.corpus.names import Names
from training.corpus.sheets import Sheet, Sheets
from training.grounding import REFUSAL, render

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
        self.sheets = Sheets(self.rng, self.names, held_out_templates)
        self.facts, self.frames = self.sheets.facts, self.sheets.frames
        self.chat = Chat(self.rng, self.names)
        self.held_out_templates = held_out_templates

    def document(self) -> Document:
        """One training document: mostly passages with questions, at times small talk."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.1:
            return self.talk()
        if roll < 0.35:
            return self.grounded(rng.randint(3, 7), rng.randint(6, 11), brief=True)
        if self.long and roll < 0.6:
            return self.grounded(rng.choice((4, 5, 6, 8)), rng.randint(8, 16))
        return self.grounded(rng.choice((1, 1, 2, 2, 3, 3, 4, 4, 4, 4)), rng.randint(4, 12))

    def talk(self) -> Document:
        """Return a conversation without passages."""
        turns = self.chat.conversation()
        if self.rng.random() < 0.1:
            entity = self.facts.entity(self.facts.kind())
            options = self.facts.options(entity)
            if options:
                ask = self.facts.ask(entity, self.rng.choice(options), "")
                turns.append((ask.question, self.rng.choice(NO_PASSAGE)))
        return Document(self.chat.system(), (), tuple(Exchange(*turn) for turn in turns))

    def grounded(
        self, count: int, questions: int, refusals: float = 0.2, brief: bool = False
    ) -> Document:
        """`count` passages and up to `questions` exchanges about them.

        Brief passages are a sentence or two: there the number of a passage is close to its words,
        and to cite is learnt first.
        """
        sheet = self.sheets.sheet(count, brief)
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

    def _answered(self, sheet: Sheet) -> list[Exchange]:
        """Every exchange the sheet can answer, one for each fact, statement or span of a scene."""
        spans: dict[tuple[str, int], list[Ask]] = {}
        for ask, source in sheet.told:
            spans.setdefault((ask.span, source), []).append(ask)
        made = [
            self._exchange(self.rng.choice(asks), source, self.held_out_templates)
            for (_, source), asks in spans.items()
        ]
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
        """Return the question as typed: at times with a lead, in lower case or without its mark."""
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
        """Return a question that the sheet does not answer: near misses first."""
        rng = self.rng
        near = [
            *([self._untold] * 2 if sheet.untold else []),
            *([self._missing, self._missing, self._other] if sheet.stated else []),
            *([self._swapped] if sheet.frames else []),
        ]
        ask = rng.choice(near)(sheet) if near and rng.random() < 0.85 else None
        return Exchange(self._asked((ask or self._elsewhere(sheet)).question), REFUSAL)

    def _untold(self, sheet: Sheet) -> Ask | None:
        """Return what a scene might have told, and did not, or what it told of somebody else."""
        return self.rng.choice(sheet.untold)

    def _other(self, sheet: Sheet) -> Ask | None:
        """Return a stated attribute, of a thing that does not occur."""
        entity, fact, _ = self.rng.choice(sheet.stated)
        return self.facts.ask(self.facts.entity(entity.kind), fact.attribute, "")

    def _elsewhere(self, sheet: Sheet) -> Ask:
        """Return a question about something else altogether."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.4:
            staged = self.sheets.scenes.stage(self.sheets.scene(sheet), 9)
            return rng.choice(staged.asks)
        entity = self.facts.entity(self.facts.kind())
        options = self.facts.options(entity)
        if roll < 0.8 and options:
            return self.facts.ask(entity, rng.choice(options), "")
        return rng.choice(self.frames.statement().asks)

    def _missing(self, sheet: Sheet) -> Ask | None:
        """Return the right thing with an attribute it lacks, if possible one another thing has."""
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
        """Return an open question that a sentence nearly answers, or one about something absent."""
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
