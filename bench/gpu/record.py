"""The results file, written anew with every row, so that an end in between loses nothing."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Record:
    """Parts by name, each with its origin and rows; parts that are not measured now stay."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts = _parts(path)

    def begin(self, part: str, origin: Mapping[str, Any]) -> None:
        """Replace a part by one without rows."""
        self._parts[part] = {**origin, "rows": []}
        self._write()

    def add(self, part: str, row: Mapping[str, Any]) -> None:
        """Add a row to a part that has begun."""
        self._parts[part]["rows"].append(dict(row))
        self._write()

    def _write(self) -> None:
        text = json.dumps(_plain({"parts": self._parts}), indent=2) + "\n"
        partial = self._path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(self._path)


def _plain(value: Any) -> Any:
    """Return the value with words for the numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else str(value)


def _parts(path: Path) -> dict[str, Any]:
    """Return what an earlier run found, if anything."""
    try:
        parts: dict[str, Any] = json.loads(path.read_text())["parts"]
    except (OSError, ValueError, LookupError):
        return {}
    return parts
