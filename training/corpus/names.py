"""Invents names: people, places, firms, products. Owns the split between seen and unseen names.

Every invented word falls into the training or the held-out half by its checksum, so a name in a
held-out question cannot have occurred in training, whatever the seeds.
"""

import random
import zlib
from collections.abc import Callable

from training.corpus.words import FIRST_NAMES, LAST_TAILS, NAME_WORDS, TOWN_TAILS

HELD_OUT_SHARE = 8

# Sound inventories: onsets, nuclei, codas. Several, so that names differ as languages do.
SOUNDS: tuple[tuple[str, str, str], ...] = (
    (
        "b br c ch d dr f g gr h j k l m n p r s sh st t th tr v w",
        "a e i o u ai ea ee oo ar er or",
        "ck d l ld lm n nd ng r rn rt s sk st t th x",
    ),
    ("b d f g k l m n p r s t v z", "a e i o u", "l n r s"),
    ("k m n r s t h y", "a i u e o ai", "n"),
    ("br d fj g h hj kr l m n r s sk st sv t v", "a e i o u y aa ei", "k ld n nd r rg rn s st"),
    ("c d f g l m n p qu r s t v", "a e i o ia io ue", "l n r s z"),
    ("b bh ch d dh g h j k kh m n p r s sh t v y", "a aa i ee u o", "l m n r sh t"),
    ("d g k kw l m n nd ng nk t z zw b f", "a e i o u", "ma la no"),
    ("c cr d fl g gl gw ll m n p rh t w", "a e i o w y ae ei", "ch dd g l ll n r th"),
    ("b cz d g k kr l m n p r s st sz w z", "a e i o u y", "k l n r sk t w"),
)


class Names:
    """A source of invented names from one half of the split."""

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out

    def allows(self, word: str) -> bool:
        """Return whether `word` lies in this source's half."""
        return is_held_out(word) == self.held_out

    def keep(self, make: Callable[[], str]) -> str:
        """Return the first of `make`'s words that lies in this source's half."""
        while True:
            word = make()
            if self.allows(word):
                return word

    def raw(self, low: int, high: int) -> str:
        """Return a pronounceable invented word of `low` to `high` syllables, in lower case."""
        rng = self.rng
        onsets, nuclei, codas = (part.split() for part in rng.choice(SOUNDS))
        count = rng.randint(low, high)
        out = ""
        for index in range(count):
            if index or rng.random() < 0.85:
                out += rng.choice(onsets)
            out += rng.choice(nuclei)
            if rng.random() < (0.6 if index == count - 1 else 0.25):
                out += rng.choice(codas)
        return out if 3 <= len(out) <= 11 else self.raw(low, high)

    def word(self, low: int = 1, high: int = 3) -> str:
        """Return a capitalised invented word."""
        return self.keep(lambda: self.raw(low, high).capitalize())

    def common(self) -> str:
        """Return an invented common noun or verb stem, in lower case."""
        return self.keep(lambda: self.raw(1, 2))

    def first(self) -> str:
        """Return a given name, from the written list or invented."""
        if self.rng.random() < 0.6:
            return self.keep(lambda: self.rng.choice(FIRST_NAMES))
        return self.word(1, 2)

    def last(self) -> str:
        """Return a family name."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.6:
            return self.word(1, 3)
        if roll < 0.85:
            return self.keep(lambda: self.raw(1, 2).capitalize() + rng.choice(LAST_TAILS))
        return self.keep(
            lambda: (
                rng.choice(NAME_WORDS)
                + rng.choice(["man", "son", "well", "field", "ford", "wood", "er"])
            )
        )

    def person(self) -> str:
        """Return a full name, sometimes with a title or an initial."""
        rng = self.rng
        roll = rng.random()
        name = f"{self.first()} {self.last()}"
        if roll < 0.05:
            return f"Dr {name}"
        if roll < 0.1:
            first, last = name.split(" ", 1)
            return f"{first} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}"
        if roll < 0.13:
            return f"{name}-{self.last()}"
        return name

    def town(self) -> str:
        """Return a settlement."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.45:
            return self.keep(lambda: self.raw(1, 2).capitalize() + rng.choice(TOWN_TAILS))
        if roll < 0.75:
            return self.word(2, 3)
        tail = rng.choice(["on Sea", "Bay", "Falls", "Heath", "Cross", "Green", "Springs", "Hill"])
        lead = rng.choice(["Port", "North", "Upper", "Saint", "New", "Great", "Lower"])
        return f"{lead} {self.word(1, 2)}" if roll < 0.88 else f"{self.word(1, 2)} {tail}"

    def label(self) -> str:
        """One or two words that name a thing: invented, or of ordinary words, or mixed."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.5:
            return self.word(1, 3)
        if roll < 0.75:
            return f"{rng.choice(NAME_WORDS)} {self.word(1, 2)}"
        return f"{self.word(1, 2)} {rng.choice(NAME_WORDS)}"

    def code(self) -> str:
        """Return a model number such as K-417 or VT90, which is never split by name."""
        rng = self.rng
        digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 4)))
        letters = "".join(rng.choice("ABCDEFGHKLMNPRSTVXZ") for _ in range(rng.randint(1, 2)))
        return letters + rng.choice(["-", "", " "]) + digits

    def slug(self) -> str:
        """Return a lower-case software name such as larkd or mist-proxy."""
        tails = [
            "d",
            "ctl",
            "db",
            "proxy",
            "queue",
            "store",
            "sync",
            "cache",
            "mesh",
            "hub",
            "agent",
            "gate",
        ]
        stem = self.common()
        tail = self.rng.choice(tails)
        return stem + tail if len(tail) == 1 or self.rng.random() < 0.3 else f"{stem}-{tail}"


def is_held_out(word: str) -> bool:
    """Return whether `word` is the one invented word in eight that training never uses."""
    return zlib.crc32(word.lower().encode()) % HELD_OUT_SHARE == 0
