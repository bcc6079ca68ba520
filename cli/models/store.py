"""The store of pulled models: a folder each, which gets its name only when it is whole."""

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(--[A-Za-z0-9][A-Za-z0-9._-]*)*")
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
    """Return where models are kept: INFERMESH_MODELS, or below the user's cache folder."""
    if given := environ.get(FOLDER_VARIABLE):
        return Path(given)
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infermesh" / "models"


class Store:
    """Models by name; `/` in one is `--` in its folder's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> StoredModel | None:
        """Return a model that is here."""
        path = self._path(name)
        if path is None or not path.is_dir():
            return None
        files = [each for each in path.rglob("*") if each.is_file()]
        return StoredModel(name, path, sum(each.stat().st_size for each in files))

    def all(self) -> Iterator[StoredModel]:
        """Yield every model that is here, by name."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            if path.is_dir() and not path.name.startswith(".") and _holds_model(path):
                stored = self.find(path.name.replace("--", "/"))
                if stored is not None:
                    yield stored

    @contextmanager
    def alone(self, name: str, waits: Callable[[], None]) -> Iterator[None]:
        """Hold the name's lock, which the kernel frees however this process ends.

        `waits` is called where another process holds it. Raises StoreError.
        """
        with self._guarded():
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / f".{self._folder_name(name)}.lock").open("a")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waits()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def filling(self, name: str) -> Iterator[Path]:
        """Give a folder to fill, which gets the model's name when the block ends well.

        What an interrupted one left is still there. Raises StoreError.
        """
        partial = self.folder / f".{self._folder_name(name)}.partial"
        final = self._path(name)
        assert final is not None, "a name that no folder can have was not refused. This is a bug."
        with self._guarded():
            partial.mkdir(exist_ok=True)
            yield partial
            for path in partial.rglob("*"):
                _flush(path)
            partial.replace(final)
            _flush(self.folder)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.folder}: {error.strerror or error}") from error

    def _path(self, name: str) -> Path | None:
        own = self._folder_name(name)
        return self.folder / own if _NAME.fullmatch(own) else None

    @staticmethod
    def _folder_name(name: str) -> str:
        return name.replace("/", "--").replace(":", "--")


def _holds_model(path: Path) -> bool:
    return any(each.suffix in _MODEL_SUFFIXES for each in path.rglob("*"))


def _flush(path: Path) -> None:
    """Have a file or folder reach the disk before what points to it does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
