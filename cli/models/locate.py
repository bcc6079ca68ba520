"""Where a model is that somebody names by a path or a short name."""

import shlex
from pathlib import Path
from typing import NamedTuple

from cli.models.catalogue import Entry, catalogue
from cli.models.reference import BadNameError
from cli.models.store import Store, StoreError
from mesh.gguf import GGUFError, find_gguf

ROOT = Path(__file__).parents[2]


class UnknownModelError(Exception):
    """Nothing here has that name; the message says how to get it."""


class Location(NamedTuple):
    """A model that can be served: a checkpoint folder, or a GGUF file."""

    path: Path
    entry: Entry | None  # of the catalogue


def locate(name: str, store: Store) -> Location:
    """Return where a model lies; a path that exists counts before a name.

    Raises UnknownModelError.
    """
    path = Path(name)
    try:
        if path.exists():
            return Location(_servable(path), None)
    except OSError as error:
        raise UnknownModelError(f"{name}: {error.strerror}") from error
    entry = catalogue().get(name)
    if entry is not None and entry.folder is not None:
        return Location(ROOT / entry.folder, entry)
    try:
        stored = store.find(name)
    except BadNameError as error:
        raise UnknownModelError(f"{name} is no path that exists, and {error}") from error
    except StoreError as error:
        raise UnknownModelError(str(error)) from error
    if stored is not None:
        return Location(stored.path, entry)
    if entry is not None or "/" in name:
        raise UnknownModelError(f"{name} is not here: infermesh pull {shlex.quote(name)}")
    known = ", ".join(catalogue())
    raise UnknownModelError(
        f"{name} is neither a path nor a model's name; the catalogue has {known}"
    )


def _servable(path: Path) -> Path:
    try:
        if find_gguf(path) is not None or (path / "config.json").is_file():
            return path.absolute()
    except GGUFError as error:
        raise UnknownModelError(str(error)) from error
    raise UnknownModelError(f"{path} is no model: it has no config.json, nor is it a GGUF file")
