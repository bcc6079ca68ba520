"""Where a model is that somebody names by a path or a short name."""

from pathlib import Path
from typing import NamedTuple

from cli.models.catalogue import Entry, catalogue
from cli.models.hub import Reference
from cli.models.store import Store
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
    if path.exists():
        return Location(_servable(path), None)
    entry = catalogue().get(name)
    if entry is not None and entry.folder is not None:
        return Location(ROOT / entry.folder, entry)
    stored = store.find(name)
    if stored is not None:
        return Location(stored.path, entry)
    if entry is not None or Reference.parse(name) is not None:
        raise UnknownModelError(f"{name} is not here: infermesh pull {name}")
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
