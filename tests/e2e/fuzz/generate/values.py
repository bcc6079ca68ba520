"""Odd JSON values: text, numbers, depth, and literals that only JSON can spell."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from tests.e2e.fuzz.case import Json

T = TypeVar("T")

LONG_TEXT = 20_000
MOST_DEPTH = 4
CONTROL_TOKENS = (
    "<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>",
    "<|im_start|>system\n", "<|im_end|>", "<s>", "</s>", "[INST]", "<|end", "|>", "<unk>",
)  # fmt: skip
PIECES = (
    "", " ", "\n", "\r\n", "\t", "a", "Hello! Who are you?", "word ", "0", "null", "true", "{}",
    "\x00", "\x01\x1b[31m", "\x7f\x85\xa0", "\ufeff", "\u2028\u2029", "\u200b\u200d\u2060",
    "\u202eabc\u202c", "\u2066\u2067\u2069", "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628",
    "\ufffe\uffff", "\ufdd0\ufdef", "\U0001fffe\U0010ffff", "\ufffd", "\ue000", "\U000e0001",
    "\ud800", "\udfff", "\udc00\ud800", "e\u0301\u0323", "Z\u0351\u0341" * 8, "\u00df\u0130\u0149",
    "\u6f22\u5b57\u304b\u306a", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1e9\U0001f1ea", "'; DROP TABLE documents; --", "\"\\\"", "\\u0000",
    "{{ 7 * 7 }}{% for x in y %}", "%s%n{0}", "../../etc/passwd", "data: [DONE]\n\n",
    "\r\nX-Injected: 1", "<script>x</script>", "&#0;&amp", *CONTROL_TOKENS,
)  # fmt: skip
INTEGERS = (
    0, 1, -1, 2, 5, 16, 17, 127, 128, 255, 1024, 1025, 3072, 65536, 2**31 - 1, 2**31, -(2**31) - 1,
    2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**40,
)  # fmt: skip
FLOATS = (
    0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 2.000001, 1e-9, 5e-324, 1e39, 1.8e308, -1e308, float("nan"),
    float("inf"), float("-inf"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Literal:
    """JSON text, or what is nearly that, which stands in a body as it is."""

    text: str


LITERALS = (
    Literal("1e400"), Literal("-1e-400"), Literal("9" * 5000), Literal("1" + "0" * 400),
    Literal("0." + "3" * 2000), Literal("1E+2"), Literal("-0"), Literal("01"), Literal("+1"),
    Literal(".5"), Literal("0x10"), Literal("undefined"), Literal("'a'"), Literal("nan"),
    Literal('"\\ud83d"'), Literal('"\\ude00\\ud83d"'), Literal('"\\x41"'), Literal('"\\u12"'),
    Literal('{"a": 1, "a": 2}'), Literal('{"a": 1,}'), Literal("[1,,2]"), Literal("/* */ 1"),
)  # fmt: skip


def text(rng: Random) -> str:
    """Return a few pieces of odd text; one text in fifty is long."""
    if rng.random() < 0.02:
        piece = rng.choice(PIECES) or "x"
        return piece * (rng.randint(1000, LONG_TEXT) // len(piece))
    return "".join(rng.choices(PIECES, k=rng.choice((0, 1, 1, 2, 3, 6))))


def deep(rng: Random) -> Literal:
    """Return arrays or objects nested deeper than parsers like."""
    depth = rng.choice((20, 100, 900, 1100, 5000, 100_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    return Literal(opening * depth + "1" + closing * depth)


def scalar(rng: Random) -> Json:
    """Return a value that holds no others."""
    makers: tuple[Callable[[], Json], ...] = (
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.choice(INTEGERS),
        lambda: rng.choice(FLOATS),
        lambda: text(rng),
        lambda: rng.choice(LITERALS),
    )
    return rng.choice(makers)()


def value(rng: Random, depth: int = MOST_DEPTH) -> Json:
    """Return any value, with few members."""
    if depth == 0 or rng.random() < 0.5:
        return scalar(rng)
    if rng.random() < 0.04:
        return deep(rng)
    if rng.random() < 0.03:
        return [rng.choice((*INTEGERS, *PIECES))] * rng.choice((100, 1000))
    length = rng.choice((0, 1, 1, 2, 3))
    if rng.random() < 0.5:
        return [value(rng, depth - 1) for _ in range(length)]
    return {text(rng): value(rng, depth - 1) for _ in range(length)}


def some(rng: Random, choices: Sequence[T], most: int) -> list[T]:
    """Return up to `most` of these, at least one, none twice."""
    return rng.sample(choices, rng.randint(1, min(most, len(choices))))


def encode(body: Json, rng: Random) -> bytes:
    """Return JSON, escaped or as UTF-8, in which lone surrogates and literals stand as they are."""
    literals: list[str] = []

    def default(literal: Literal) -> str:
        literals.append(literal.text)
        return f"@literal {len(literals) - 1}@"

    encoded = json.dumps(body, default=default, ensure_ascii=rng.random() < 0.7)
    spelled = re.sub(r'"@literal (\d+)@"', lambda match: literals[int(match[1])], encoded)
    return spelled.encode("utf-8", "surrogatepass")
