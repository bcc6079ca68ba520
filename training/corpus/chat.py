"""Small talk: written greetings, facts about the model itself, and short texts on plain topics."""

import random

from training.corpus.names import Names
from training.corpus.written import pairs, sections

Turns = list[tuple[str, str]]

_SECTIONS = sections("chat.txt")

HELLOS = _SECTIONS["hellos"]
WELCOMES = _SECTIONS["welcomes"]
# A third of conversations has no system text.
SYSTEMS = [*[""] * 5, *_SECTIONS["systems"]]
WANTS = _SECTIONS["wants"]
STORIES = _SECTIONS["story_wants"]
HEROES = _SECTIONS["heroes"]
HOMES = _SECTIONS["homes"]
TROUBLES = _SECTIONS["troubles"]
DEEDS = _SECTIONS["deeds"]
ENDINGS = _SECTIONS["endings"]
NO_PASSAGE = _SECTIONS["no_passage"]
TALK = pairs(_SECTIONS["talk"])
THEMES = pairs(_SECTIONS["themes"])


class Chat:
    """Makes conversations without passages."""

    def __init__(self, rng: random.Random, names: Names) -> None:
        self.rng = rng
        self.names = names

    def system(self) -> str:
        """Return a system text, or none."""
        return self.rng.choice(SYSTEMS).replace("{label}", self.names.label())

    def small(self) -> tuple[str, str]:
        """One exchange about nothing much."""
        asks, answers = self.rng.choice(TALK)
        return self._loose(self.rng.choice(asks)), self.rng.choice(answers)

    def hello(self) -> tuple[str, str]:
        """Return a greeting, alone or with a question to answer."""
        rng = self.rng
        hello = self._loose(rng.choice(HELLOS))
        if rng.random() < 0.4:
            question, answer = self.small()
            if hello[-1] not in "!?.":
                hello += rng.choice([",", "!", "."])
            return f"{hello} {question}", f"Hello! {answer}"
        return hello, rng.choice(WELCOMES)

    def theme(self) -> tuple[str, str]:
        """Return a few sentences on a topic."""
        titles, sentences = self.rng.choice(THEMES)
        title = self.rng.choice(titles)
        keep = sorted(self.rng.sample(range(len(sentences)), self.rng.randint(3, len(sentences))))
        want = self.rng.choice(WANTS).replace("{t}", title)
        return self._loose(want), " ".join(sentences[index] for index in keep)

    def story(self) -> tuple[str, str]:
        """Return a very short story, about a hero that may be asked for."""
        rng = self.rng
        hero = rng.choice(HEROES)
        want = rng.choice(STORIES).replace("{x}", hero)
        known = "the " + hero.split(" ", 1)[1].split(" who")[0].split(" with")[0]
        name = f", whose name was {self.names.first()}," if rng.random() < 0.4 else ""
        tale = (
            f"Once upon a time {hero}{name} lived {rng.choice(HOMES)}. {rng.choice(TROUBLES)} "
            f"{rng.choice(DEEDS)} {rng.choice(ENDINGS)}"
        )
        return want, tale.replace("{h}", known).replace("{H}", known.capitalize())

    def named(self) -> Turns:
        """Return a chat in which the user gives a name and asks for it later."""
        rng = self.rng
        name = self.names.first()
        told = rng.choice(
            [
                f"My name is {name}.",
                f"I am {name}.",
                f"Hello, my name is {name}.",
                f"Hi, I am {name}",
                f"You can call me {name}.",
            ]
        )
        asked = rng.choice(["What is my name?", "Do you remember my name?", "Who am I?"])
        turns = [(told, f"Hello, {name}! It is nice to meet you. How can I help you?")]
        if rng.random() < 0.5:
            turns.append(self.small())
        return [*turns, (asked, f"Your name is {name}.")]

    def conversation(self) -> Turns:
        """Return a few turns of small talk."""
        rng = self.rng
        turns: Turns = self.named() if rng.random() < 0.12 else []
        if rng.random() < 0.4:
            turns.insert(0, self.hello())
        makers = (self.small, self.theme, self.theme, self.story, self.small, self.hello)
        turns += [rng.choice(makers)() for _ in range(rng.randint(1, 4))]
        return turns

    def _loose(self, text: str) -> str:
        roll = self.rng.random()
        if roll < 0.12:
            return text.lower()
        return text.rstrip(".!?") if roll < 0.2 and text.rstrip(".!?") else text
