"""Open sentences and the questions they answer, from grammar and vocabulary, not from a domain.

Here any subject may do anything to any object, with ordinary or invented words, so what is learnt
is how a question mirrors its sentence and not which words tend to go together.
"""

import random
from dataclasses import dataclass

from training.corpus import words
from training.corpus.facts import Ask, articles, capital
from training.corpus.names import Names
from training.corpus.values import Values

VOWELS = "aeiou"

# Features with a value that fits: of people, and of things.
PERSONAL = {
    "access code": "{code}",
    "badge number": "{code}",
    "birthplace": "{town}",
    "blood type": "[A|B|AB|O] [positive|negative]",
    "code name": "{label}",
    "code word": "{commonname}",
    "contact address": "{email}",
    "extension number": "{port}",
    "favourite colour": "{colour}",
    "favourite dish": "{dish}",
    "favourite food": "{food}",
    "favourite animal": "the {animal}",
    "favourite instrument": "the {musical}",
    "favourite subject": "{topic}",
    "favourite month": "{month}",
    "hair colour": "[black|brown|red|grey|white|blonde|dark brown]",
    "day off": "{weekday}",
    "hobby": "{hobby}",
    "home port": "{town}",
    "house number": "{rooms}",
    "locker number": "{rooms}",
    "middle name": "{first}",
    "monthly salary": "{price}",
    "motto": "{motto}",
    "nickname": "{label}",
    "password": "{commonname}",
    "emergency number": "{port}",
    "postcode": "{code}",
    "shoe size": "[36|37|38|39|40|41|42|43|44|45]",
    "stage name": "{label}",
    "native language": "{label}",
    "wedding day": "{daymonth}",
    "seat": "seat {rooms}",
    "email address": "{email}",
}
USING = ("carry", "use", "make", "sell", "buy", "collect", "repair", "keep at home", "paint")
MEASURED = {
    "asking price": "{price}",
    "opening bid": "{price}",
    "brand": "{label}",
    "catalogue number": "{code}",
    "diameter": "{rooms} centimetres",
    "width": "{rooms} centimetres",
    "length": "{rooms} centimetres",
    "thickness": "{few} [millimetres|centimetres]",
    "weight": "{productweight} kilograms",
    "colour": "{colour}",
    "main material": "{material}",
    "model number": "{code}",
    "serial number": "{code}",
    "reference number": "{code}",
    "registration number": "{code}",
    "place of origin": "{town}",
    "date of purchase": "{fulldate}",
    "year of manufacture": "{year}",
    "shelf number": "{rooms}",
    "shape": "[round|square|oval|flat|long and narrow|like a star]",
    "value": "{price}",
    "replacement cost": "{price}",
    "insurance value": "{bigcost}",
    "service interval": "{months} months",
    "maximum load": "{productweight} kilograms",
    "smell": "[weak|strong|sweet|bitter|like that of {smell}]",
    "place of sale": "{town}",
    "last owner": "{person}",
}


@dataclass(frozen=True)
class Verb:
    """A verb's four forms."""

    base: str
    third: str
    past: str
    participle: str


@dataclass(frozen=True)
class Statement:
    """A sentence without its stop, what it answers, and a key that tells its topic apart.

    `near` are questions that share its subject or its topic and that it does not answer.
    """

    text: str
    asks: tuple[Ask, ...]
    key: str
    near: tuple[Ask, ...] = ()


def verb(entry: str) -> Verb:
    """Return the forms of an entry `base[/past[/participle]]`, regular where they are not given."""
    base, *irregular = entry.split("/")
    stem, _, tail = base.partition("_")
    tail = f" {tail}" if tail else ""
    if stem.endswith("y") and stem[-2] not in VOWELS:
        third, regular = stem[:-1] + "ies", stem[:-1] + "ied"
    elif stem.endswith(("s", "sh", "ch", "x", "z", "o")):
        third, regular = stem + "es", stem + "ed"
    elif stem.endswith("e"):
        third, regular = stem + "s", stem + "d"
    elif stem in ["drop", "plan", "beg", "stop", "rob", "hug", "tag", "trap", "ship", "wrap"]:
        third, regular = stem + "s", stem + stem[-1] + "ed"
    else:
        third, regular = stem + "s", stem + "ed"
    past = irregular[0] if irregular else {"throw": "threw"}.get(stem, regular)
    participle = irregular[-1] if irregular else {"throw": "thrown"}.get(stem, past)
    return Verb(stem + tail, third + tail, past + tail, participle + tail)


VERBS = tuple(verb(entry) for entry in words.VERBS)
SYNONYMS = tuple(tuple(verb(entry) for entry in group.split()) for group in words.SYNONYMS)


def plural(noun: str) -> str:
    """Return the plural of an ordinary noun."""
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return noun[:-1] + "ies"
    return {"knife": "knives", "shelf": "shelves"}.get(noun, noun + "s")


class Frames:
    """Makes statements of several forms."""

    def __init__(self, rng: random.Random, names: Names) -> None:
        self.rng = rng
        self.names = names
        self.values = Values(rng, names)

    def statement(self, subject: str | None = None) -> Statement:
        """One statement; an action is the most frequent form."""
        forms = (
            self.action,
            self.action,
            self.action,
            self.action,
            self.feature,
            self.feature,
            self.spot,
            self.relation,
            self.definition,
            self.advice,
            self.comparison,
            self.listing,
        )
        return self.rng.choice(forms)(subject)

    def noun(self) -> str:
        """Return a noun for a thing: ordinary, or invented one time in six."""
        if self.rng.random() < 0.17:
            return self.names.common()
        return self.rng.choice(words.THINGS)

    def actor(self) -> str:
        """Someone or something that acts."""
        rng = self.rng
        roll = rng.random()
        lead = rng.choice(["", "", rng.choice(words.ADJECTIVES) + " "])
        if roll < 0.3:
            return self.names.person() if rng.random() < 0.6 else self.names.first()
        if roll < 0.6:
            return f"the {lead}{rng.choice(words.PEOPLE)}"
        if roll < 0.75:
            return f"the {lead}{rng.choice(words.ANIMALS)}"
        if roll < 0.85:
            return f"the {rng.choice(words.PEOPLE)} of {self.names.town()}"
        return f"the {lead}{self.names.common()}" if rng.random() < 0.6 else self.names.label()

    def object(self) -> tuple[str, str]:
        """Something acted on, as first mentioned and as known: (a red cup, the red cup)."""
        rng = self.rng
        roll = rng.random()
        noun = self.noun()
        if roll < 0.45:
            quality = rng.choice(
                [
                    rng.choice(words.ADJECTIVES),
                    rng.choice(words.COLOURS),
                    rng.choice(words.MATERIALS),
                ]
            )
            return articles(f"a {quality} {noun}"), f"the {quality} {noun}"
        if roll < 0.6:
            return articles(f"a {noun}"), f"the {noun}"
        if roll < 0.7:
            return (f"the {rng.choice(words.ADJECTIVES)} {noun}",) * 2
        if roll < 0.8:
            return (rng.choice(words.FOODS),) * 2
        if roll < 0.9:
            return (f"{self.values.small()} {plural(noun)}",) * 2
        thing = f"{noun} from {self.names.town()}"
        return articles(f"a {thing}"), f"the {thing}"

    def place(self) -> str:
        """Return a phrase that says where."""
        rng = self.rng
        if rng.random() < 0.3:
            return f"in {self.names.town()}"
        lead = rng.choice(["", "", rng.choice(words.ADJECTIVES) + " "])
        return f"{rng.choice(['in', 'near', 'behind', 'at'])} the {lead}{rng.choice(words.PLACES)}"

    def time(self) -> str:
        """Return a phrase that says when."""
        rng = self.rng
        return rng.choice(
            (
                f"in {self.values.year()}",
                f"in {self.values.month()}",
                f"on {self.values.weekday()}",
                f"at {self.values.time()}",
                f"in the {rng.choice(['spring', 'summer', 'autumn', 'winter'])}",
                "at dawn",
                "at midnight",
                "after lunch",
                "before sunrise",
                f"during the {rng.choice(words.ABSTRACT)}",
                f"after the {rng.choice(words.ABSTRACT)}",
            )
        )

    def action(self, subject: str | None) -> Statement:
        """Somebody does something to something, perhaps with where, when, why, how or how often."""
        rng = self.rng
        group = rng.choice(SYNONYMS) if rng.random() < 0.35 else (self._verb(),)
        said, asked = rng.choice(group), rng.choice(group)
        subject = subject or self.actor()
        first, known = self.object()
        role = rng.choice(["none", "none", "place", "time", "reason", "manner", "often", "goal"])
        past = role in ("time", "reason") or rng.random() < 0.4
        extra = {
            "none": "",
            "place": self.place(),
            "time": self.time(),
            "reason": f"because {rng.choice(words.CAUSES)}",
            "manner": rng.choice(words.MANNERS),
            "often": rng.choice(words.FREQUENCIES),
            "goal": rng.choice(words.GOALS),
        }[role]
        text = self._tell(said, past, subject, first, extra, role)
        asks = self._asks(asked, past, subject, first, known, extra, role)
        near = self._near(asked, past, subject, known, role)
        return Statement(articles(text), tuple(asks), f"{subject} {said.base}", near)

    def _near(
        self, verb_: Verb, past: bool, subject: str, known: str, role: str
    ) -> tuple[Ask, ...]:
        """Ask for parts of the action that were not told, or with one part exchanged."""
        do = "did" if past else "does"
        finite = verb_.past if past else verb_.third
        starts = {
            "place": "Where",
            "time": "When",
            "reason": "Why",
            "manner": "How",
            "often": "How often",
        }
        questions = [
            f"{start} {do} {subject} {verb_.base} {known}?"
            for name, start in starts.items()
            if name != role and not (role == "goal" and name == "reason")
        ]
        other = self.object()[1]
        questions = self.rng.sample(questions, 2)
        questions.append(f"Who {finite} {other}?")
        questions.append(f"What {do} {self.actor()} {verb_.base}?")
        unrelated = self._verb()
        if not any(verb_ in group and unrelated in group for group in SYNONYMS):
            questions.append(f"What {do} {subject} {unrelated.base}?")
        return tuple(Ask(articles(question), "", "") for question in questions)

    def _verb(self) -> Verb:
        if self.rng.random() < 0.12:
            return verb(self.names.common())
        return self.rng.choice(VERBS)

    def _tell(self, said: Verb, past: bool, subject: str, first: str, extra: str, role: str) -> str:
        rng = self.rng
        finite = said.past if past else said.third
        roll = rng.random()
        if roll < 0.15:
            be = ("were" if past else "are") if plurality(first) else ("was" if past else "is")
            return f"{first} {be} {said.participle} by {subject} {extra}".strip()
        if roll < 0.35 and extra and role != "goal":
            return f"{extra}, {subject} {finite} {first}"
        if roll < 0.42:
            return f"it {'was' if past else 'is'} {subject} who {finite} {first} {extra}".strip()
        return f"{subject} {finite} {first} {extra}".strip()

    def _asks(
        self, verb_: Verb, past: bool, subject: str, first: str, known: str, extra: str, role: str
    ) -> list[Ask]:
        do = "did" if past else "does"
        be = ("were" if past else "are") if plurality(first) else ("was" if past else "is")
        finite = verb_.past if past else verb_.third
        whole = capital(f"{subject} {finite} {first}")
        who = "What" if subject.startswith("the ") and self.rng.random() < 0.2 else "Who"
        asks = [
            Ask(f"What {do} {subject} {verb_.base}?", whole, first),
            Ask(f"{who} {finite} {known}?", capital(f"{subject} {finite} {known}"), subject),
            Ask(
                f"What {be} {verb_.participle} by {subject}?",
                capital(f"{first} {be} {verb_.participle} by {subject}"),
                first,
            ),
            Ask(
                f"By whom {be} {known} {verb_.participle}?",
                capital(f"{known} {be} {verb_.participle} by {subject}"),
                subject,
            ),
        ]
        number, _, rest = first.partition(" ")
        if plurality(first) and rest:
            asks.append(Ask(f"How many {rest} {do} {subject} {verb_.base}?", whole, number))
        starts = {
            "place": "Where",
            "time": "When",
            "reason": "Why",
            "manner": "How",
            "often": "How often",
            "goal": self.rng.choice(["Why", "For what purpose"]),
        }
        if role in starts:
            asks += [
                Ask(
                    f"{starts[role]} {do} {subject} {verb_.base} {known}?",
                    capital(f"{subject} {finite} {known} {extra}"),
                    extra.removeprefix("because "),
                )
            ] * 3
        return asks

    def feature(self, subject: str | None) -> Statement:
        """Something has a feature with a value that fits it."""
        rng = self.rng
        living = subject is not None or rng.random() < 0.55
        table = PERSONAL if living else MEASURED
        feature = rng.choice(list(table))
        subject = subject or (self._owner() if living else self._item())
        value = articles(self.values.fill(table[feature]))
        text = rng.choice(
            (
                f"the {feature} of {subject} is {value}",
                f"{subject}'s {feature} is {value}",
                f"as for {subject}, the {feature} is {value}",
                f"{value} is the {feature} of {subject}",
                f"the records give {value} as the {feature} of {subject}",
            )
        )
        answer = capital(f"the {feature} of {subject} is {value}")
        own = capital(f"{subject}'s {feature} is {value}")
        asks = (
            Ask(f"What is the {feature} of {subject}?", answer, value),
            Ask(f"What is {subject}'s {feature}?", own, value),
            Ask(
                f"What do the records give as the {feature} of {subject}?",
                capital(f"the records give {value} as the {feature} of {subject}"),
                value,
            ),
        )
        lacking = rng.choice([each for each in table if each != feature])
        stranger = self._owner() if living else self._item()
        near = (
            Ask(f"What is the {lacking} of {subject}?", "", ""),
            Ask(f"What is {subject}'s {lacking}?", "", ""),
            Ask(f"What is the {feature} of {stranger}?", "", ""),
        )
        return Statement(articles(text), asks, f"{subject} {feature}", near)

    def _owner(self) -> str:
        """Someone with features of a person."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.4:
            return self.names.person()
        if roll < 0.7:
            return f"the {rng.choice(words.PEOPLE)} of {self.names.town()}"
        return f"the {rng.choice(words.ADJECTIVES)} {rng.choice(words.PEOPLE)}"

    def _item(self) -> str:
        """Return a thing with features of a thing."""
        lead = self.rng.choice([words.ADJECTIVES, words.COLOURS])
        return f"the {self.rng.choice(lead)} {self.noun()}"

    def spot(self, subject: str | None) -> Statement:
        """Say that a thing is somewhere."""
        rng = self.rng
        thing = subject or f"the {rng.choice(words.ADJECTIVES)} {self.noun()}"
        where = (
            f"{rng.choice(words.SPOTS)} the {rng.choice(['', rng.choice(words.ADJECTIVES) + ' '])}"
            + (rng.choice(words.PLACES) if rng.random() < 0.5 else self.noun())
        )
        verb_ = rng.choice(["is", "stands", "lies", "can be found", "is kept", "is hidden"])
        text = f"{thing} {verb_} {where}" if rng.random() < 0.8 else f"{where} {verb_} {thing}"
        if verb_ == "can be found" and text.startswith(where):
            text = f"{where} you can find {thing}"
        asks = (
            Ask(f"Where is {thing}?", capital(f"{thing} is {where}"), where),
            Ask(f"Where can I find {thing}?", capital(f"you can find {thing} {where}"), where),
            Ask(f"What is {where}?", capital(f"{thing} is {where}"), thing),
        )
        return Statement(text, asks, thing)

    def relation(self, subject: str | None) -> Statement:
        """Two people and how they are related, which can be asked in both directions."""
        one, other = self.names.person(), subject or self.names.person()
        relation = self.rng.choice(words.RELATIONS)
        text = self.rng.choice(
            (
                f"{one} is the {relation} of {other}",
                f"{other}'s {relation} is {one}",
                f"{other} has a {relation} called {one}",
            )
        )
        asks = (
            Ask(
                f"Who is the {relation} of {other}?",
                capital(f"the {relation} of {other} is {one}"),
                one,
            ),
            Ask(f"Who is {other}'s {relation}?", capital(f"{other}'s {relation} is {one}"), one),
            Ask(
                f"Whose {relation} is {one}?", capital(f"{one} is the {relation} of {other}"), other
            ),
        )
        lacking = self.rng.choice([each for each in words.RELATIONS if each != relation])
        near = (
            Ask(f"Who is the {lacking} of {other}?", "", ""),
            Ask(f"Who is {other}'s {lacking}?", "", ""),
            Ask(f"Who is the {relation} of {self.names.person()}?", "", ""),
        )
        return Statement(articles(text), asks, f"{other} {relation}", near)

    def definition(self, _: str | None) -> Statement:
        """Say what an invented word means."""
        rng = self.rng
        word = self.names.common()
        meaning = articles(
            f"a {rng.choice(words.ADJECTIVES)} {rng.choice(words.CLASSES)} "
            + rng.choice(
                (
                    f"made of {rng.choice(words.MATERIALS)}",
                    f"with a {rng.choice(words.COLOURS)} pattern",
                    f"that comes from {self.names.town()}",
                    f"first made in {rng.choice(words.COUNTRIES)}",
                    f"that {plural(rng.choice(words.PEOPLE))} {rng.choice(USING)}",
                )
            )
        )
        text = rng.choice(
            (
                f"a {word} is {meaning}",
                f"the word {word} means {meaning}",
                f'by "{word}" people mean {meaning}',
            )
        )
        asks = (
            Ask(articles(f"What is a {word}?"), articles(f"A {word} is {meaning}"), meaning),
            Ask(f"What does {word} mean?", f"The word {word} means {meaning}", meaning),
        )
        return Statement(articles(text), asks, word)

    def advice(self, _: str | None) -> Statement:
        """Say what to do when something happens."""
        rng = self.rng
        event, step = (
            self._written(rng.choice(words.EVENTS)),
            self._written(rng.choice(words.STEPS)),
        )
        text = rng.choice(
            (
                f"if {event}, {step}",
                f"when {event}, you should {step}",
                f"{step} if {event}",
                f"should it happen that {event}, {step}",
            )
        )
        asks = (
            Ask(f"What should I do if {event}?", f"If {event}, {step}", step),
            Ask(f"What must be done when {event}?", f"When {event}, {step}", step),
            Ask(f"What do I do when {event}?", f"When {event}, {step}", step),
        )
        near = (Ask(f"What should I do if {self._written(rng.choice(words.EVENTS))}?", "", ""),)
        return Statement(text, asks, event, near)

    def _written(self, text: str) -> str:
        text = text.replace("{noun}", self.noun())
        return articles(self.values.fill(text.replace("{person}", self.rng.choice(words.PEOPLE))))

    def comparison(self, subject: str | None) -> Statement:
        """One thing is more so than another."""
        rng = self.rng
        one, other = subject or self.actor(), self.actor()
        more = rng.choice(words.COMPARATIVES)
        text = f"{one} is {more} than {other}"
        pair = rng.choice(((one, other), (other, one)))
        asks = (
            Ask(f"Who is {more}, {pair[0]} or {pair[1]}?", capital(f"{one} is {more}"), one),
            Ask(f"Who is {more} than {other}?", capital(f"{one} is {more} than {other}"), one),
        )
        return Statement(text, asks, f"{one} {other} {more}")

    def listing(self, _: str | None) -> Statement:
        """Several like things in one sentence, each with a value: one must be picked."""
        rng = self.rng
        count = rng.randint(2, 3)
        if rng.random() < 0.5:
            items = [f"for {item}" for item in rng.sample(words.GROUPS, count)]
            base = rng.choice(["a ticket", "entry", "a pass", f"a {self.noun()}"])
            field, lead, question = "{fee}", f"{base} costs", f"How much does {base} cost "
        else:
            days = rng.sample(
                ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
                count,
            )
            items = [f"on {day}" for day in days]
            actor = f"the {rng.choice(words.PEOPLE)}"
            base, field = actor, rng.choice(["in {town}", "at the {place}", "with {first}"])
            verb_ = rng.choice(["work", "meet", "play", "train", "teach"])
            lead = f"{actor} {verb(verb_).third}"
            asked = {"in": "Where does", "at": "Where does", "wi": "With whom does"}[field[:2]]
            question = f"{asked} {actor} {verb_} "
        values = [self.values.fill(field) for _ in items]
        if len(set(values)) < count:
            return self.listing(None)
        parts = [f"{value} {item}" for value, item in zip(values, items, strict=True)]
        text = f"{lead} {', '.join(parts[:-1])} and {parts[-1]}"
        asks = tuple(
            Ask(articles(f"{question}{item}?"), articles(capital(f"{lead} {value} {item}")), value)
            for value, item in zip(values, items, strict=True)
        )
        return Statement(articles(text), asks, base)


def plurality(phrase: str) -> bool:
    """Return whether a noun phrase begins with a number."""
    return not phrase.startswith(("a ", "an ", "the "))
