"""Requests that no cache knows: each begins with words that no other begins with."""

import json
import random
import re
from pathlib import Path
from typing import NamedTuple

NUM_WORDS = 30
_QUESTIONS = Path(__file__).parents[1] / "factual_questions.jsonl"


class Asked(NamedTuple):
    """What all requests have in common; with `ignore_eos` answers have `max_tokens`."""

    model: str
    max_tokens: int
    ignore_eos: bool = False


class Prompts:
    """Chat requests of NUM_WORDS words, as bodies of HTTP; the same for the same `first`.

    The three words at the start count, so neither a whole answer nor a block of the prompt is
    found again.
    """

    def __init__(self, asked: Asked, first: int = 0) -> None:
        self._words = vocabulary()
        self._rng = random.Random(first)
        self._asked = asked
        self._next = first

    def text(self) -> str:
        """Return the next prompt."""
        words, number = self._words, self._next
        self._next += 1
        start = []
        for _ in range(3):
            number, digit = divmod(number, len(words))
            start.append(words[digit])
        return " ".join([*start, *self._rng.choices(words, k=NUM_WORDS - len(start))])

    def body(self) -> bytes:
        """Return the next request: greedy, so that answers are looked up and kept as well."""
        request = {
            **self._asked._asdict(),
            "messages": [{"role": "user", "content": self.text()}],
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(request, separators=(",", ":")).encode()


def vocabulary() -> list[str]:
    """Return the words of the factual questions, each once, in order."""
    return sorted(set(re.findall(r"\b[a-z]{3,}\b", _QUESTIONS.read_text())))
