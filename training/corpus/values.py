"""Makes the values of facts: names, dates, amounts and short written phrases."""

import random
import re

from training.corpus import words
from training.corpus.names import Names
from training.corpus.written import sections

LISTS = sections("values.txt")
FIELD = re.compile(r"\{([a-z0-9]+)\}|\(([^()]*)\)|\[([^\[\]]*)\]")

# Whole numbers for measures, from the least to the greatest that makes sense.
RANGES = {
    "few": (2, 14),
    "months": (6, 36),
    "members": (12, 900),
    "hectares": (3, 9000),
    "towerheight": (12, 180),
    "summitheight": (600, 6500),
    "treeheight": (4, 70),
    "spanlength": (35, 900),
    "depthmetres": (3, 400),
    "knots": (6, 38),
    "linespeed": (30, 160),
    "productweight": (2, 60),
    "animalweight": (20, 900),
    "watts": (20, 3000),
    "limitnum": (5, 5000),
    "timeoutnum": (2, 900),
    "pagecount": (80, 900),
    "runminutes": (70, 200),
    "crowd": (40, 20_000),
    "lifeyears": (2, 40),
    "bakeminutes": (10, 120),
    "ovenheat": (120, 260),
    "orbitcount": (40, 9000),
    "kmfar": (4, 900),
    "refund": (5, 90),
    "minage": (6, 21),
    "meltheat": (150, 3000),
    "rooms": (12, 400),
    "celsius": (3, 28),
}
PRICES = {"fee": (2, 60), "price": (5, 900), "dishprice": (2, 30), "bigcost": (20_000, 90_000)}
BUILDING = (
    "brick",
    "granite",
    "limestone",
    "sandstone",
    "concrete",
    "stone",
    "marble",
    "slate",
    "oak",
    "iron",
    "steel",
)
PORTABLE = (
    "aluminium",
    "bamboo",
    "plastic",
    "steel",
    "copper",
    "titanium",
    "brass",
    "wood",
    "stainless steel",
    "tin",
)


class Values:
    """Fills `{fields}` and `(choices|of|wording)` from one random source."""

    def __init__(self, rng: random.Random, names: Names) -> None:
        self.rng = rng
        self.names = names

    def fill(self, text: str) -> str:
        """`text` with every choice taken and every known field made, inside choices too."""
        while True:
            filled = FIELD.sub(self._one, text)
            if filled == text:
                return re.sub(r"  +", " ", text).strip()
            text = filled

    def _one(self, match: re.Match[str]) -> str:
        field, options, listed = match.groups()
        if field is None:
            choices: str = options if options is not None else listed
            return self.rng.choice(choices.split("|"))
        if field in ("e", "v"):
            return match.group(0)
        return self.make(field)

    def make(self, field: str) -> str:
        """One value of the sort called `field`."""
        if field in LISTS:
            return self.rng.choice(LISTS[field])
        if field in RANGES:
            return grouped(self.rng.randint(*RANGES[field]), self.rng)
        if field in PRICES:
            return self._amount(self.rng.randint(*PRICES[field]))
        maker = getattr(self, field, None) or getattr(self.names, field)
        return str(maker())

    def year(self) -> str:
        """Return a year, mostly recent."""
        rng = self.rng
        return str(rng.randint(1860, 2026) if rng.random() < 0.7 else rng.randint(1050, 1859))

    def lateryear(self) -> str:
        """Return a year since railways and clubs."""
        return str(self.rng.randint(1850, 2026))

    def filmyear(self) -> str:
        """Return a year in which there were cinemas."""
        return str(self.rng.randint(1925, 2026))

    def date(self) -> str:
        """Return a date, with or without its year, in several written forms."""
        rng = self.rng
        day, month, year = rng.randint(1, 28), rng.choice(words.MONTHS), self.year()
        forms = (
            f"{day} {month} {year}",
            f"{month} {day}, {year}",
            f"{day} {month}",
            f"{month} {day}",
            f"the {ordinal(day)} of {month}",
        )
        return rng.choice(forms)

    def daymonth(self) -> str:
        """Return a day of the year."""
        day, month = self.rng.randint(1, 28), self.rng.choice(words.MONTHS)
        return self.rng.choice(
            (f"{day} {month}", f"{month} {day}", f"the {ordinal(day)} of {month}")
        )

    def fulldate(self) -> str:
        """Return a date with its year."""
        return self._dated(self.lateryear())

    def recentdate(self) -> str:
        """Return a date in the last decades."""
        return self._dated(str(self.rng.randint(1985, 2026)))

    def _dated(self, year: str) -> str:
        day, month = self.rng.randint(1, 28), self.rng.choice(words.MONTHS)
        return self.rng.choice((f"{day} {month} {year}", f"{month} {day}, {year}"))

    def month(self) -> str:
        """Return the name of a month."""
        return self.rng.choice(words.MONTHS)

    def weekday(self) -> str:
        """Return the name of a day."""
        return self.rng.choice(words.WEEKDAYS)

    def time(self) -> str:
        """Return a time in the morning."""
        return self._clock(5, 11, "am", "in the morning")

    def evening(self) -> str:
        """Return a time later in the day."""
        return self._clock(4, 11, "pm", "in the evening")

    def _clock(self, low: int, high: int, half: str, part: str) -> str:
        rng = self.rng
        hour, minute = rng.randint(low, high), rng.choice(["00", "15", "30", "45", "10", "20"])
        military = hour + 12 if half == "pm" else hour
        spelt = [
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
        ][hour - 1]
        return rng.choice(
            (
                f"{hour} {half}",
                f"{military:02}:{minute}",
                f"{hour}:{minute} {half}",
                f"{spelt} o'clock",
                f"half past {spelt}",
                f"{hour} {part}",
            )
        )

    def number(self) -> str:
        """Return a quantity for a measure: whole or with a decimal."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.2:
            return f"{rng.randint(1, 99)}.{rng.randint(1, 9)}"
        if roll < 0.75:
            return str(rng.randint(2, 120))
        return grouped(rng.randint(121, 9999), rng)

    def count(self) -> str:
        """Return a head count, with separators or words."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.35:
            return str(rng.randint(11, 999))
        if roll < 0.8:
            return grouped(rng.randint(1000, 99_999), rng)
        if roll < 0.9:
            return f"{rng.randint(2, 95)} thousand"
        return grouped(rng.randint(100_000, 4_999_999), rng)

    def small(self) -> str:
        """Return a small number, in words or digits."""
        return (
            self.rng.choice(words.SMALL_NUMBERS)
            if self.rng.random() < 0.6
            else str(self.rng.randint(2, 60))
        )

    def smallnum(self) -> str:
        """Return a small number for years or months."""
        return (
            self.rng.choice(words.SMALL_NUMBERS[:11])
            if self.rng.random() < 0.4
            else str(self.rng.randint(2, 36))
        )

    def digit(self) -> str:
        """One digit from 2."""
        return str(self.rng.randint(2, 9))

    def money(self) -> str:
        """Return an amount of money."""
        rng = self.rng
        whole = rng.choice([rng.randint(2, 60), rng.randint(61, 999), rng.randint(1000, 90_000)])
        return self._amount(whole)

    def millions(self) -> str:
        """Return a large amount of money."""
        coin = self.rng.choice(["euros", "dollars", "pounds", "crowns"])
        return f"{self.rng.randint(2, 900)} million {coin}"

    def _amount(self, whole: int) -> str:
        rng = self.rng
        amount = grouped(whole, rng)
        forms = [
            f"{amount} euros",
            f"{amount} dollars",
            f"${amount}",
            f"{amount} pounds",
            f"€{amount}",
            f"£{amount}",
            f"{amount} crowns",
        ]
        if whole < 100:
            forms.append(f"${whole}.{rng.choice(['50', '99', '75', '20'])}")
        return rng.choice(forms)

    def port(self) -> str:
        """Return a network port."""
        return str(
            self.rng.choice([self.rng.randint(1024, 9999), self.rng.randint(10_000, 65_000)])
        )

    def version(self) -> str:
        """Return a version number."""
        rng = self.rng
        return ".".join(str(rng.randint(0, 19)) for _ in range(rng.choice([2, 2, 3])))

    def storage(self) -> str:
        """Somewhere a program keeps its data."""
        name = self.names.common()
        return self.rng.choice(
            (
                f"/var/lib/{name}",
                f"/srv/{name}/data",
                f"a bucket called {name}",
                f"~/.{name}",
                "a local database",
                "memory",
                f"the {name} folder",
                f"/opt/{name}",
                "a text file",
                "the home folder",
                "a remote cluster",
                f"the {self.names.word(1, 2)} archive",
            )
        )

    def filename(self) -> str:
        """Return the name of a settings file."""
        tail = self.rng.choice(["toml", "yaml", "json", "conf", "ini", "cfg"])
        return f"{self.names.common()}.{tail}"

    def email(self) -> str:
        """Return an address to write to."""
        user = self.rng.choice(["info", "help", "post", "desk", "hello", "tickets", "office"])
        return f"{user}@{self.names.common()}.{self.rng.choice(['org', 'com', 'net', 'example'])}"

    def material(self) -> str:
        """Return a material, at times with an adjective."""
        lead = self.rng.choice(["", "", "", "grey ", "solid ", "white ", "polished ", "local "])
        return lead + self.rng.choice(words.MATERIALS)

    def buildstuff(self) -> str:
        """Return what walls are made of."""
        lead = self.rng.choice(["", "", "grey ", "solid ", "white ", "local "])
        return lead + self.rng.choice(BUILDING)

    def productstuff(self) -> str:
        """Return what a thing for sale is made of."""
        lead = self.rng.choice(["", "", "polished ", "light ", "grey ", "solid "])
        return lead + self.rng.choice(PORTABLE)

    def twocolours(self) -> str:
        """Two different colours."""
        return " and ".join(self.rng.sample(words.COLOURS, 2))

    def colour(self) -> str:
        """Return a colour."""
        return self.rng.choice(words.COLOURS)

    def food(self) -> str:
        """Something edible."""
        return self.rng.choice(words.FOODS)

    def crops(self) -> str:
        """One or two things that grow or are cooked."""
        one, two = self.rng.sample(words.FOODS, 2)
        return one if self.rng.random() < 0.5 else f"{one} and {two}"

    def dish(self) -> str:
        """Something to order."""
        form = self.rng.choice(
            ["pie", "soup", "cake", "stew", "bread", "salad", "tart", "pancakes"]
        )
        return f"{self.rng.choice(words.FOODS)} {form}"

    def animal(self) -> str:
        """Return an animal, at times with a colour or adjective."""
        lead = self.rng.choice(["", "", "", self.rng.choice(words.COLOURS) + " "])
        return f"{lead}{self.rng.choice(words.ANIMALS)}"

    def animals(self) -> str:
        """Several animals of one sort."""
        return many(self.animal())

    def treasure(self) -> str:
        """Something worth seeing."""
        rng = self.rng
        thing, material = rng.choice(words.THINGS), rng.choice(words.MATERIALS)
        adjective = rng.choice(words.ADJECTIVES)
        return rng.choice(
            (
                f"its {adjective} {thing}",
                f"a {material} {thing}",
                f"its {material} {thing}",
                f"the {thing} of {self.names.person()}",
                f"a {thing} made of {material}",
                f"its {adjective} {rng.choice(words.PLACES)}",
            )
        )

    def profession(self) -> str:
        """Return an occupation."""
        return self.rng.choice(words.PEOPLE)

    def topic(self) -> str:
        """Return a subject of study."""
        return self.rng.choice(words.TOPICS)

    def topiccap(self) -> str:
        """Return a subject of study as a title."""
        return self.rng.choice(words.TOPICS).capitalize()

    def goal(self) -> str:
        """Return a purpose, beginning with `to`."""
        return self.rng.choice(words.GOALS)

    def cause(self) -> str:
        """Return a reason, as a clause."""
        return self.rng.choice(words.CAUSES)

    def frequency(self) -> str:
        """How often."""
        return self.rng.choice(words.FREQUENCIES)

    def country(self) -> str:
        """Return a country, real or invented."""
        return (
            self.rng.choice(words.COUNTRIES) if self.rng.random() < 0.6 else self.names.word(2, 3)
        )

    def place(self) -> str:
        """Return a common place."""
        return self.rng.choice(words.PLACES)

    def venue(self) -> str:
        """Somewhere to meet."""
        if self.rng.random() < 0.5:
            return f"the {self.rng.choice(words.ADJECTIVES)} {self.rng.choice(words.PLACES)}"
        return f"the {self.names.label()} {self.rng.choice(['Hall', 'Hotel', 'Centre', 'Theatre'])}"

    def adjective(self) -> str:
        """Return an adjective."""
        return self.rng.choice(words.ADJECTIVES)

    def noun(self) -> str:
        """Return a noun as it stands in a title."""
        pool = words.THINGS if self.rng.random() < 0.6 else words.ABSTRACT
        return self.rng.choice(pool).capitalize()

    def noun2(self) -> str:
        """Return a thing, as it stands before another noun."""
        return self.rng.choice(words.THINGS)

    def adjnoun(self) -> str:
        """Adjective and noun as in a title."""
        adjective = self.rng.choice(words.ADJECTIVES).capitalize()
        return f"{adjective} {self.noun()}"

    def adjcol(self) -> str:
        """Return a colour or an adjective."""
        return self.rng.choice(self.rng.choice([words.COLOURS, words.ADJECTIVES]))

    def commonname(self) -> str:
        """Return a stem for substances."""
        return self.names.common()

    def lightsignal(self) -> str:
        """Return the state of a lamp."""
        return self.rng.choice(["green", "red", "blue", "white", "orange", "yellow", "purple"])

    def motto(self) -> str:
        """Three or four words to live by."""
        rng = self.rng
        return rng.choice(
            (
                f"{rng.choice(words.NAME_WORDS)} and {rng.choice(words.NAME_WORDS)}",
                f"Always {rng.choice(words.ADJECTIVES)}",
                f"{rng.choice(words.ADJECTIVES).capitalize()} but {rng.choice(words.ADJECTIVES)}",
                f"No {rng.choice(words.THINGS)} without a {rng.choice(words.THINGS)}",
                f"From {rng.choice(words.ABSTRACT)} to {rng.choice(words.ABSTRACT)}",
            )
        )


def many(animal: str) -> str:
    """Return the plural of an animal."""
    lead, gap, noun = animal.rpartition(" ")
    if noun in ("deer", "elk", "salmon", "sheep", "trout", "bison", "pike", "eland"):
        return animal
    odd = {"mouse": "mice", "goose": "geese", "wolf": "wolves", "ox": "oxen"}
    odd |= {"pony": "ponies", "butterfly": "butterflies"}
    ending = "es" if noun.endswith(("x", "ch", "s")) else "s"
    return f"{lead}{gap}{odd.get(noun, noun + ending)}"


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th")
    return f"{day}{ending}"


def grouped(number: int, rng: random.Random) -> str:
    """Return a whole number, with a thousands separator three times in four."""
    return f"{number:,}" if rng.random() < 0.75 else str(number)
