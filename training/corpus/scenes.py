"""Reads the written scenes: short natural documents with slots, and the questions they answer."""

import random
import re
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from training.corpus.facts import Ask, articles, capital
from training.corpus.names import Names
from training.corpus.values import Values

FOLDER = Path(__file__).with_name("scenes")
SLOT = re.compile(r"\{([A-Z])(?:\.(first|last))?\}")
NAMED = re.compile(r"\{(person|first|last|town|label|slug|code)\}")
KEPT = 0.75


@dataclass(frozen=True)
class Query:
    """A question, its answer, and the slot that has to be found."""

    question: str
    answer: str
    slot: str


@dataclass(frozen=True)
class Line:
    """A sentence and the questions it answers."""

    text: str
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Scene:
    """A written document with its slots' definitions, in the order of the file."""

    name: str
    slots: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Staged:
    """A scene once filled: its sentences, what they answer, and what they do not.

    `missing` are the questions of dropped sentences, and some asked of another name.
    """

    name: str
    sentences: tuple[str, ...]
    asks: tuple[Ask, ...]
    missing: tuple[Ask, ...]


class Reader:
    """Reads one file; `wrong` collects what does not fit, a line each."""

    def __init__(self, path: Path) -> None:
        self.scenes: list[Scene] = []
        self.wrong: list[str] = []
        for number, row in enumerate(path.read_text().splitlines(), 1):
            if row.strip() and not row.startswith("#"):
                self.wrong += [f"{path.name}:{number}: {fault}" for fault in self._row(row.strip())]

    def _row(self, row: str) -> list[str]:
        """Take one row and return what is wrong with it."""
        if row.startswith("scene "):
            self.scenes.append(Scene(row.removeprefix("scene "), (), ()))
            return []
        if not self.scenes:
            return ["a file begins with a scene"]
        scene = self.scenes[-1]
        known = {slot for slot, _ in scene.slots}
        faults = [f"slot {m[1]} is not defined" for m in SLOT.finditer(row) if m[1] not in known]
        if row.startswith("- "):
            self.scenes[-1] = replace(scene, lines=(*scene.lines, Line(row[2:], ())))
            return faults if row.endswith((".", "!")) else [*faults, "a sentence needs its stop"]
        if row.startswith("? "):
            return faults + self._query(scene, row)
        if found := re.fullmatch(r"([A-Z]) = (.+)", row):
            self.scenes[-1] = replace(scene, slots=(*scene.slots, (found[1], found[2])))
            return faults
        return ["expected a scene, a slot, a sentence or a question"]

    def _query(self, scene: Scene, row: str) -> list[str]:
        found = re.fullmatch(r"\? (.+\?) = (.+[^.]) > ([A-Z])", row)
        if not found or not scene.lines:
            return ["expected `? QUESTION? = ANSWER > SLOT` under a sentence"]
        query = Query(*found.groups())
        last = scene.lines[-1]
        line = Line(last.text, (*last.queries, query))
        self.scenes[-1] = replace(scene, lines=(*scene.lines[:-1], line))
        slot = f"{{{query.slot}}}"
        checks = (
            (slot in query.answer, f"the answer lacks {slot}"),
            (any(slot in each.text for each in scene.lines), f"no sentence so far holds {slot}"),
            (slot not in query.question, f"the question gives {slot} away"),
        )
        return [fault for passed, fault in checks if not passed]


@cache
def book() -> tuple[Scene, ...]:
    """Every scene of the folder."""
    readers = [Reader(path) for path in sorted(FOLDER.glob("*.txt"))]
    wrong = [fault for reader in readers for fault in reader.wrong]
    if wrong:
        raise ValueError("\n".join(wrong))
    return tuple(scene for reader in readers for scene in reader.scenes)


class Scenes:
    """Fills scenes from one random source."""

    def __init__(self, rng: random.Random, names: Names) -> None:
        self.rng = rng
        self.values = Values(rng, names)

    def stage(self, scene: Scene, most: int) -> Staged:
        """`scene` in at most `most` sentences; what the dropped ones would answer is missing."""
        rng = self.rng
        values, others = self._filled(scene), self._filled(scene)
        named = {slot for slot, form in scene.slots if NAMED.search(form)}
        kept = [not index or rng.random() < KEPT for index in range(len(scene.lines))]
        sentences: list[str] = []
        asks: list[Ask] = []
        missing: list[Ask] = []
        strangers: list[Ask] = []
        for line, keep in zip(scene.lines, kept, strict=True):
            keep = keep and len(sentences) < most
            if keep:
                sentences.append(self._put(line.text, values))
            for query in line.queries:
                question = self._put(query.question, values)
                if keep:
                    answer = self._put(query.answer, values)
                    asks.append(Ask(question, answer, values[query.slot]))
                else:
                    missing.append(Ask(question, "", ""))
                if named & {slot for slot, _ in SLOT.findall(query.question)}:
                    strangers.append(Ask(self._put(query.question, others), "", ""))
        missing += rng.sample(strangers, min(len(strangers), 1 + len(missing) // 2))
        return Staged(scene.name, tuple(sentences), tuple(asks), tuple(missing))

    def _filled(self, scene: Scene) -> dict[str, str]:
        """Return a value for every slot; two slots of one scene never share one."""
        values: dict[str, str] = {}
        for slot, form in scene.slots:
            for _ in range(20):
                value = articles(self.values.fill(form))
                if all(value != other for other in values.values()):
                    break
            values[slot] = value
        return values

    def _put(self, text: str, values: dict[str, str]) -> str:
        """`text` with its choices taken and its slots filled."""

        def slot(match: re.Match[str]) -> str:
            value, part = values[match[1]], match[2]
            if part:
                return value.split()[0 if part == "first" else -1]
            return value

        return capital(articles(SLOT.sub(slot, self.values.fill(text))))


def main(path: Path, count: int = 4) -> int:
    """Print what is wrong in a file, or a few filled scenes of it."""
    reader = Reader(path)
    scenes = reader.scenes
    print(*reader.wrong, sep="\n")
    rng = random.Random()
    stage = Scenes(rng, Names(rng))
    for scene in rng.sample(scenes, min(count, len(scenes))):
        staged = stage.stage(scene, 9)
        print(f"\n[{staged.name}]", " ".join(staged.sentences))
        for ask in staged.asks:
            print(f"   ? {ask.question}  =  {ask.answer}  >  {ask.span}")
        for ask in staged.missing:
            print(f"   x {ask.question}")
    print(f"\n{len(scenes)} scenes, {sum(len(s.lines) for s in scenes)} sentences,", end=" ")
    print(f"{sum(len(li.queries) for s in scenes for li in s.lines)} questions")
    return 1 if reader.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
