"""The data folder: one process holds it at a time, and it has a name for life."""

import fcntl
import os
import uuid
from pathlib import Path

from mesh.errors import CannotStartError

_ONE_WRITER = (
    "the embedded store has one writer; {who}: run one retriever, or give each its own "
    "INFERMESH_RETRIEVER_DATA and its own NATS server"
)


class WriterError(CannotStartError):
    """This process may not write: another one does."""

    def __init__(self, who: str) -> None:
        super().__init__(_ONE_WRITER.format(who=who))


class DataFolder:
    """Held from construction until `close`, or until the process ends in any way."""

    def __init__(self, path: Path) -> None:
        """Make the folder where it is missing; raise WriterError where it is held."""
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = os.open(path / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise WriterError(f"another process uses {path.resolve()}") from None
        self.store_id = _named(path / "store-id")

    def close(self) -> None:
        """Let the next one in; idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _named(file: Path) -> str:
    """Return the id in the file; a new one where there is none."""
    try:
        return file.read_text("ascii").strip()
    except FileNotFoundError:
        store_id = uuid.uuid4().hex
        part = file.with_suffix(".part")
        part.write_text(store_id, "ascii")
        part.replace(file)
        return store_id
