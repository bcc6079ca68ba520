"""What llama.cpp made of the odd strings, as `record.py` wrote it down."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

RECORD = Path(__file__).with_name("llama_cpp_ids.json")


def digest(ids: Sequence[Sequence[int]]) -> str:
    """Return a hash of all ids of all strings."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


def expected() -> dict[str, str]:
    """Return the hash of each vocabulary's ids."""
    record: dict[str, str] = json.loads(RECORD.read_text())
    return record
