"""Reads facts.txt, and makes entities with facts that passages state and questions ask for."""

import random
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from training.corpus.names import Names
from training.corpus.values import Values

# Attributes too close in meaning to stand side by side: a question for one that is missing could
# be answered from the other, so an entity has at most one of each group.
CLOSE: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split())
    for group in (
        "place country waters route spare madein foundin habitat "
        "venue setin distance home birthplace surface sleeps homeland",
        "begun built completed launched premiere published fought "
        "whenfound when season anniversary repaired blooms",
        "born birthday died anniversary",
        "hours starts closing",
        "visitors participants members staff crew soldiers students population",
        "rooms beds seats parking",
        "refund cancel guarantee battery",
        "room venue place",
        "famous called lives",
        "ticket price cost tallest revenue fine dishprice",
        "owner bought keeper gift maker",
        "maker inventor author painter discovered founder architect",
        "famous speciality knownfor makes pride",
        "length area diameter pages duration height depth running courseweeks",
        "temperature oven hardness warmth baking",
        "stores config logs",
        "closed sank resigned calledoff",
        "often stops",
        "head founder chief organiser coach taughtby driver captain mayor commander curator",
        "ingredient material walls servedwith",
        "usedfor uses cures purpose builtfor",
        "limit retries timeout",
        "colour light peel",
    )
)
DESCRIBED = (
    "the {adjective} NOUN",
    "the {adjective} NOUN",
    "the {adjective} NOUN",
    "the NOUN called {label}",
    "the NOUN known as {label}",
    "the NOUN in the {adjective} photograph",
    "the NOUN that {first} talks about",
    "the NOUN in {first}'s letter",
    "the NOUN that {person} mentions",
    "the second NOUN",
)
OBJECTS = {"he": "him", "she": "her", "it": "it"}
POSSESSIVES = {"he": "his", "she": "her", "it": "its", "they": "their"}


@dataclass(frozen=True)
class Kind:
    """A sort of thing: its noun, its groups and how its members are named."""

    noun: str
    groups: frozenset[str]
    pronoun: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Attribute:
    """One thing that can be said and asked of the kinds it belongs to."""

    name: str
    groups: frozenset[str]
    value: str
    says: tuple[str, ...]
    asks: tuple[tuple[str, str], ...]
    held_out: bool


@dataclass
class Entity:
    """A named thing. `facts` holds its attributes' values."""

    kind: Kind
    name: str
    facts: dict[str, "Fact"] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The family name of a person, and the whole name of anything else."""
        return self.name.split()[-1] if "person" in self.kind.groups else self.name


@dataclass(frozen=True)
class Fact:
    """A value that an entity has."""

    attribute: Attribute
    value: str


@dataclass(frozen=True)
class Ask:
    """A question with its full answer sentence and the span that must be in it."""

    question: str
    answer: str
    span: str


@cache
def book() -> tuple[tuple[Kind, ...], tuple[Attribute, ...]]:
    """Return the kinds and attributes of facts.txt."""
    kinds: list[Kind] = []
    attributes: list[Attribute] = []
    text = Path(__file__).with_name("facts.txt").read_text()
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if lines and lines[0].startswith("attr "):
            attributes.append(_attribute(lines))
        else:
            kinds.extend(_kind(line) for line in lines)
    return tuple(kinds), tuple(attributes)


def _kind(line: str) -> Kind:
    noun, groups, names = line.removeprefix("kind ").split(" : ")
    *tags, pronoun = groups.split()
    return Kind(noun, frozenset([*tags, *noun.split()]), pronoun, tuple(names.split("|")))


def _attribute(lines: list[str]) -> Attribute:
    name, groups, value = lines[0].removeprefix("attr ").split(" : ")
    says = tuple(line[2:] for line in lines if line.startswith("- "))
    pairs = [line[2:].split(" = ") for line in lines if line.startswith("? ")]
    asks = tuple((question, answer) for question, answer in pairs)
    held_out = name.startswith("!")
    return Attribute(name.lstrip("!"), frozenset(groups.split()), value, says, asks, held_out)


@cache
def attributes_of(kind: Kind) -> tuple[Attribute, ...]:
    """Return the attributes that apply to `kind`."""
    return tuple(each for each in book()[1] if each.groups & kind.groups)


def close(one: str, other: str) -> bool:
    """Return whether a question for `one` might be answered from `other`."""
    return one == other or any(one in group and other in group for group in CLOSE)


def articles(text: str) -> str:
    """Turn `a apple` into `an apple`."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIO])(?!one|uni|use|eu)", r"\1n ", text)


def capital(text: str) -> str:
    """`text` with its first letter raised."""
    return text[:1].upper() + text[1:]


class Facts:
    """Makes entities, and the sentences and questions about them."""

    def __init__(self, rng: random.Random, names: Names) -> None:
        self.rng = rng
        self.values = Values(rng, names)

    def kind(self) -> Kind:
        """Return a kind; people come up more often than any other."""
        kinds = book()[0]
        if self.rng.random() < 0.07:
            kinds = tuple(each for each in kinds if "person" in each.groups)
        return self.rng.choice(kinds)

    def entity(self, kind: Kind) -> Entity:
        """Return a new member of `kind`, without facts; some have a description and not a name."""
        plain = "person" not in kind.groups and self.rng.random() < 0.2
        pattern = self.rng.choice(DESCRIBED if plain else kind.names)
        return Entity(kind, articles(self.values.fill(pattern.replace("NOUN", kind.noun))))

    def options(self, entity: Entity, held_out: bool = False) -> list[Attribute]:
        """Return the attributes that `entity` could still be given."""
        return [
            each
            for each in attributes_of(entity.kind)
            if each.held_out == held_out
            and not any(close(each.name, have) for have in entity.facts)
        ]

    def learn(self, entity: Entity, attribute: Attribute) -> Fact:
        """Give `entity` a value for `attribute`."""
        fact = Fact(attribute, articles(self.values.fill(attribute.value)))
        entity.facts[attribute.name] = fact
        return fact

    def clause(self, entity: Entity, fact: Fact, mention: str) -> str:
        """Return a statement of `fact`: `mention` is name, pronoun, noun or short."""
        text = self.rng.choice(fact.attribute.says)
        text = self.values.fill(text.replace("(his|her)", POSSESSIVES[entity.kind.pronoun]))
        return articles(refer(text, entity, mention).replace("{v}", fact.value))

    def ask(self, entity: Entity, attribute: Attribute, value: str, mention: str = "name") -> Ask:
        """Return a question for `attribute` and the sentence that answers it."""
        question, answer = self.rng.choice(attribute.asks)
        possessive = POSSESSIVES[entity.kind.pronoun]
        question, answer = (
            self.values.fill(text.replace("(his|her)", possessive)) for text in (question, answer)
        )
        question = articles(refer(question, entity, mention))
        answer = articles(refer(answer, entity, mention).replace("{v}", value))
        return Ask(capital(question), capital(answer), value)


def refer(text: str, entity: Entity, mention: str) -> str:
    """`text` with {e} replaced by the wanted form of the entity's name."""
    kind = entity.kind
    if mention == "short":
        return text.replace("{e}", entity.short)
    if mention == "noun" and "person" not in kind.groups:
        return text.replace("{e}", f"the {kind.noun}")
    if mention != "pronoun" or kind.pronoun not in OBJECTS:
        return text.replace("{e}", entity.name)
    text = text.replace("{e}'s", POSSESSIVES[kind.pronoun])
    subject = r"^\{e\}|(?<=\bis )\{e\}|(?<=\bwas )\{e\}|(?<=\bdoes )\{e\}|(?<=\bdid )\{e\}"
    text = re.sub(subject, kind.pronoun, text)
    text = re.sub(r"\b(the [a-z ]+?) of \{e\}", rf"{POSSESSIVES[kind.pronoun]} \1", text)
    text = re.sub(rf"\b{POSSESSIVES[kind.pronoun]} the ", f"{POSSESSIVES[kind.pronoun]} ", text)
    return text.replace("{e}", OBJECTS[kind.pronoun])
