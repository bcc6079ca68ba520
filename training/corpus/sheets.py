"""Passages under way: which facts, statements and scenes stand in them, and what they leave out."""

import random
from dataclasses import dataclass, field

from training.corpus.chat import THEMES
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
)
from training.corpus.frames import Frames, Statement
from training.corpus.names import Names, is_held_out
from training.corpus.scenes import Scene, Scenes, book
from training.corpus.words import ADJECTIVES, FILLERS, OPENERS

# Clauses to a passage.
ORDINARY = (1, 2, 3, 3, 4, 4, 5, 6)
BRIEF = (1, 1, 1, 2)
PLANS = (
    *("alike", "alike", "one", "one"),
    *("mixed", "mixed", "mixed"),
    *("open", "blend", "blend"),
    *("scenes", "scenes", "scenes", "scenes"),
)


@dataclass
class Sheet:
    """Passages under way, and what they hold, each with its passage's number.

    `told` are questions that scenes answer; `untold` ones that they might have and do not.
    """

    passages: list[str] = field(default_factory=list)
    stated: list[tuple[Entity, Fact, int]] = field(default_factory=list)
    frames: list[tuple[Statement, int]] = field(default_factory=list)
    entities: list[Entity] = field(default_factory=list)
    told: list[tuple[Ask, int]] = field(default_factory=list)
    untold: list[Ask] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)


class Sheets:
    """Makes sheets from one random source."""

    def __init__(self, rng: random.Random, names: Names, held_out_templates: bool) -> None:
        self.rng = rng
        self.facts = Facts(rng, names)
        self.frames = Frames(rng, names)
        self.scenes = Scenes(rng, names)
        self.held_out_templates = held_out_templates
        self.lengths: tuple[int, ...] = ORDINARY

    def sheet(self, count: int, brief: bool = False) -> Sheet:
        """`count` passages by one of several plans: alike, of one thing, mixed, open or scenes."""
        self.lengths = BRIEF if brief else ORDINARY
        sheet = Sheet()
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
                self._fresh(sheet)
            elif plan == "open":
                self._open(sheet)
            elif plan == "scenes":
                self._scene(sheet)
            else:
                rng.choice(
                    (self._open, self._theme, self._pair, self._fresh, self._scene, self._scene)
                )(sheet)
        return sheet

    def scene(self, sheet: Sheet) -> Scene:
        """Return a scene, from this source's templates, that the sheet does not hold yet."""
        while True:
            scene = self.rng.choice(book())
            if scene.name not in sheet.scenes and self._allows(scene):
                return scene

    def _allows(self, scene: Scene) -> bool:
        return is_held_out(scene.name) == self.held_out_templates

    def _scene(self, sheet: Sheet) -> None:
        """Add a passage from a written scene, at times with a filler."""
        rng = self.rng
        scene = self.scene(sheet)
        staged = self.scenes.stage(scene, max(rng.choice(self.lengths), 1) + 1)
        index = len(sheet.passages) + 1
        sentences = list(staged.sentences)
        if rng.random() < 0.06:
            sentences.insert(rng.randint(0, len(sentences)), rng.choice(FILLERS))
        sheet.scenes.append(scene.name)
        sheet.told += [(ask, index) for ask in staged.asks]
        sheet.untold += staged.missing
        sheet.passages.append(" ".join(sentences))

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
        """Add a passage about one thing."""
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
        """Put a second fact into the last clause: `X, which opened in 1962, is in Y`."""
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
        """Add a passage that tells two alike things apart."""
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
        """Add a passage of open sentences, each on its own subject or some on the same."""
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
        """Add a passage that answers nothing that is asked."""
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
