"""What llama.cpp makes of the odd strings, as `record.py` wrote it down: a digest per portion."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RECORD = Path(__file__).with_name("llama_cpp_ids.json")
STRINGS_PER_DIGEST = 100
_DIGITS = 8


class Expected(NamedTuple):
    """What one vocabulary makes of the strings; `adds_bos` where the file does not say."""

    adds_bos: bool
    digests: list[str]


def expected() -> dict[str, Expected]:
    """Return the record by the name of the vocabulary or of its pre-tokenizer."""
    return {
        name: Expected(entry["adds_bos"], entry["digests"].split())
        for entry in _read()["ids"]
        for name in entry["names"].split()
    }


def expected_ends() -> dict[str, list[str]]:
    """Return the tokens at which a sequence ends, by family."""
    ends: dict[str, list[str]] = _read()["ends"]
    return ends


def digests(ids: Sequence[Sequence[int]]) -> list[str]:
    """Return a short hash of each portion's ids."""
    portions = [
        [list(each) for each in ids[i : i + STRINGS_PER_DIGEST]]
        for i in range(0, len(ids), STRINGS_PER_DIGEST)
    ]
    return [
        hashlib.sha256(json.dumps(portion, separators=(",", ":")).encode()).hexdigest()[:_DIGITS]
        for portion in portions
    ]


def write(record: Mapping[str, Expected], ends: Mapping[str, list[str]]) -> None:
    """Write the record; names whose entries are equal share one."""
    names: dict[tuple[bool, str], list[str]] = {}
    for name, entry in record.items():
        names.setdefault((entry.adds_bos, " ".join(entry.digests)), []).append(name)
    entries = [
        {"names": " ".join(each), "adds_bos": adds_bos, "digests": digests}
        for (adds_bos, digests), each in names.items()
    ]
    RECORD.write_text(json.dumps({"ids": entries, "ends": ends}, indent=1) + "\n")


def _read() -> dict[str, Any]:
    record: dict[str, Any] = json.loads(RECORD.read_text())
    return record
