"""The API keys of a local stack, each alone in a file that only its owner can read."""

import os
import secrets
from pathlib import Path

PREFIX = "sk-infermesh-"
MODE = 0o600


def read(path: Path) -> str:
    """Return the key in a file; "" where there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def ensure(path: Path, given: str = "") -> str:
    """Return the key in this file, made where there is none; a `given` key replaces it."""
    key = given or read(path) or PREFIX + secrets.token_urlsafe(32)
    _write(path, key)
    return key


def _write(path: Path, key: str) -> None:
    """Whole or not at all, and never readable by others, whatever lies at `path`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key)
    draft.replace(path)
