"""The grounding text: how a model is shown the passages that it is to answer from.

A model folder brings its own in `grounding.json`, since a model reads best what it was trained on;
`DEFAULT` is what measured best on a general chat model (bench/grounding).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

from services.tokenizer.chat import Message
from services.tokenizer.checkpoint import GROUNDING_FILE, Checkpoint, CheckpointError

_PLACEHOLDER = re.compile(r"\{(passages|question)\}")


class GroundingError(ValueError):
    """The text of a file is no grounding; names the field."""


class GroundedChat(NamedTuple):
    """A chat that holds its passages, and the text that its answer is made to begin with."""

    messages: list[Message]
    answer_start: str


@dataclass(frozen=True, slots=True)
class Grounding:
    """Templates of the system message and of the last user message.

    `{passages}` stands for the passages, numbered from 1, a line each; `{question}` for what the
    user wrote. An answer begins with `answer_start`, where there is no passage with `empty_start`.
    """

    system: str = ""
    user: str = "{question}"
    answer_start: str = ""
    empty_start: str = ""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Grounding":
        """Return this checkpoint's own, or the default; raises CheckpointError."""
        if checkpoint.grounding_json is None:
            return DEFAULT
        try:
            return cls.parse(checkpoint.grounding_json)
        except GroundingError as error:
            raise CheckpointError(f"{checkpoint.id}: {GROUNDING_FILE}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> "Grounding":
        """Read the JSON of a file; raises GroundingError."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise GroundingError(f"is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise GroundingError("holds no JSON object")
        names = [field.name for field in fields(cls)]
        for name, value in values.items():
            if name not in names:
                raise GroundingError(f"{name}: is none of {', '.join(names)}")
            if not isinstance(value, str):
                raise GroundingError(f"{name}: must be a string")
        grounding = cls(**values)
        if "{question}" not in grounding.user:
            raise GroundingError("user: must hold {question}")
        if "{passages}" not in grounding.system + grounding.user:
            raise GroundingError("system or user: must hold {passages}")
        return grounding

    def text(self) -> str:
        """Return the JSON that `parse` reads."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def ground(self, messages: Sequence[Message], passages: Sequence[str]) -> GroundedChat:
        """Return the chat with its passages.

        System messages become one, before the text of our own; without a user message one is made
        where it has something to say.
        """
        values = {"passages": numbered(passages), "question": ""}
        system = [m.content.strip() for m in messages if m.role in ("system", "developer")]
        head = "\n\n".join(text for text in [*system, _filled(self.system, values)] if text)
        turns = [m for m in messages if m.role not in ("system", "developer")]
        asked = [i for i, m in enumerate(turns) if m.role == "user"]
        if asked:
            question = turns[asked[-1]]
            content = _filled(self.user, values | {"question": question.content})
            turns[asked[-1]] = question._replace(content=content)
        elif content := _filled(self.user, values).strip():
            turns.append(Message("user", content))
        start = self.answer_start if passages else self.empty_start
        return GroundedChat([*([Message("system", head)] if head else []), *turns], start)


def numbered(passages: Sequence[str]) -> str:
    """Return the passages by number, each on one line, whatever line breaks it has."""
    return "\n".join(f"[{n}] {' '.join(text.split())}" for n, text in enumerate(passages, start=1))


def _filled(template: str, values: Mapping[str, str]) -> str:
    # in one pass: a passage may spell a placeholder
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


DEFAULT = Grounding(
    user=(
        "Question: {question}\n\nPassages:\n{passages}\n\n"
        "Answer from the passages and cite them as [n]."
    ),
    answer_start="[",
    empty_start="The passages do not say.",
)
