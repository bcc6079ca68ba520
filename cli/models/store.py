"""The store of pulled models: a folder each, which gets its name only when it is whole."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cli.models.progress import bytes_in
from cli.models.reference import folder_of, name_of

# of this command alone: services refuse variables that they do not know
FOLDER_VARIABLE = "INFERMESH_MODELS"
_MODEL_SUFFIXES = frozenset({".gguf", ".safetensors"})


class StoreError(Exception):
    """The store's folder cannot be used; the message names it and says why."""


class StoredModel(NamedTuple):
    """A model that is here, whole."""

    name: str
    path: Path
    bytes: int


def default_folder(environ: Mapping[str, str]) -> Path:
    """Return where models are kept: INFERMESH_MODELS, or below the user's cache folder.

    Raises StoreError where this user has none.
    """
    if given := environ.get(FOLDER_VARIABLE):
        return Path(given)
    try:
        cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise StoreError(f"this user has no home folder: set {FOLDER_VARIABLE}") from error
    return cache / "infermesh" / "models"


class Store:
    """Models by name.

    Raises BadNameError for a name that no model can have, StoreError for the folder's faults.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> StoredModel | None:
        """Return a model that is here."""
        path = self.folder / folder_of(name)
        with self._guarded():
            return StoredModel(name, path, bytes_in(path)) if path.is_dir() else None

    def all(self) -> Iterator[StoredModel]:
        """Yield every model that is here, by name."""
        with self._guarded():
            paths = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        for path in paths:
            name = name_of(path.name)
            if name is not None and _holds_model(path):
                stored = self.find(name)
                if stored is not None:
                    yield stored

    @contextmanager
    def alone(self, name: str, waits: Callable[[], None]) -> Iterator[None]:
        """Hold the name's lock, which the kernel frees however this process ends.

        `waits` is called where another process holds it.
        """
        lock_name = f".{folder_of(name)}.lock"
        with self._guarded():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / lock_name).open("a")
        with lock:
            with self._guarded():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waits()
                    fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def filling(self, name: str) -> Iterator[Path]:
        """Give a folder to fill, which gets the model's name when the block ends well.

        What an interrupted one left is still there.
        """
        final = self.folder / folder_of(name)
        partial = self.folder / f".{final.name}.partial"
        with self._guarded():
            partial.mkdir(exist_ok=True)
            yield partial
            for path in partial.rglob("*"):
                _flush(path)
            _flush(partial)
            partial.replace(final)
            _flush(self.folder)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.folder}: {error.strerror or error}") from error


def _holds_model(path: Path) -> bool:
    return any(each.suffix in _MODEL_SUFFIXES for each in path.rglob("*"))


def _flush(path: Path) -> None:
    """Have a file or folder reach the disk before what points to it does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
