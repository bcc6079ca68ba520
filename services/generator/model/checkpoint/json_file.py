"""Reads the small JSON files of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from services.generator.model.errors import ModelConfigError


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the file's object, None without such a file; raises ModelConfigError naming it."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ModelConfigError(path.name, f"is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelConfigError(path.name, "must hold one JSON object")
    return content
