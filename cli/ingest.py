"""`infermesh ingest`: sends documents to the gateway and waits until they can be found."""

import argparse
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.client import ApiError, Gateway, Json

MEDIA_TYPES = {
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
}
KINDS = " ".join(MEDIA_TYPES)
AT_ONCE = 4
DOCUMENT_LIMIT_S = 900.0
POLL_FIRST_S = 0.05
POLL_LONGEST_S = 1.0
BUSY = (429, 503)
# the gateway cannot be reached, or the key is wrong: true of every other document too
HOPELESS = (0, 401, 403)


class Document(NamedTuple):
    """A file and the name that citations will show."""

    path: Path
    source: str


class FailedError(Exception):
    """One document was not indexed; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `infermesh ingest`."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help=f"folders, or files: {KINDS}"
    )
    parser.add_argument("--collection", required=True, metavar="NAME")


def run(arguments: argparse.Namespace) -> int:
    """0 when every passage can be found, else 1."""
    documents, failures = find(arguments.paths)
    if not documents and not failures:
        failures.append(f"no documents found ({KINDS})")
    if documents:
        try:
            failures += Ingestion(Gateway.from_environment(), arguments.collection).run(documents)
        except ApiError as error:
            failures.append(str(error))
    for failure in failures:
        print(f"infermesh ingest: {failure}", file=sys.stderr)
    return 1 if failures else 0


def find(paths: Iterable[Path]) -> tuple[list[Document], list[str]]:
    """Return the documents below these paths, and a line for each path that is none.

    Below a folder, hidden files and other kinds of files are passed over.
    """
    documents: dict[Path, Document] = {}
    failures = []
    for path in paths:
        if path.is_dir():
            for file in _below(path):
                source = file.relative_to(path).as_posix()
                documents.setdefault(file.resolve(), Document(file, source))
        elif not path.is_file():
            failures.append(f"{path}: no such file or folder")
        elif path.suffix.lower() not in MEDIA_TYPES:
            failures.append(f"{path}: not one of {KINDS}")
        else:
            documents.setdefault(path.resolve(), Document(path, path.name))
    return list(documents.values()), failures


class Ingestion:
    """Documents on their way into one collection, AT_ONCE at a time."""

    def __init__(self, gateway: Gateway, collection: str) -> None:
        self._gateway = gateway
        self._collection = collection
        self._given_up = threading.Event()

    def run(self, documents: list[Document]) -> list[str]:
        """Return one line per failed document; raise ApiError where all would fail alike."""
        failures: list[str] = []
        num_passages = 0
        columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
                bar = progress.add_task("", total=len(documents))
                futures = {pool.submit(self.ingest, d): d for d in documents}
                for future in as_completed(futures):
                    try:
                        num_passages += future.result()
                    except (ApiError, FailedError, OSError) as error:
                        if isinstance(error, ApiError) and error.status in HOPELESS:
                            raise
                        failures.append(f"{futures[future].path}: {error}")
                    progress.advance(bar)
        finally:
            self._given_up.set()
            pool.shutdown(cancel_futures=True)
        num_indexed = len(documents) - len(failures)
        print(f"{num_indexed} documents, {num_passages} passages in {self._collection}")
        return failures

    def ingest(self, document: Document) -> int:
        """Send one document; return how many passages of it can now be found."""
        deadline = time.monotonic() + DOCUMENT_LIMIT_S
        collection, source = (
            urllib.parse.quote(name, safe="") for name in (self._collection, document.source)
        )
        path = f"/v1/collections/{collection}/documents?source={source}"
        media_type = MEDIA_TYPES[document.path.suffix.lower()]
        content = document.path.read_bytes()
        queued = self._patiently("POST", path, deadline, content, media_type)
        poll_s = POLL_FIRST_S
        while True:
            state = self._patiently("GET", f"/v1/ingestions/{queued['ingestion_id']}", deadline)
            if state["status"] == "indexed":
                return int(state["passages"])
            if state["status"] == "failed":
                raise FailedError(state.get("error") or "it could not be indexed")
            self._pause(poll_s, deadline)
            poll_s = min(2 * poll_s, POLL_LONGEST_S)

    def _patiently(
        self, method: str, path: str, deadline: float, body: bytes | None = None, kind: str = ""
    ) -> Json:
        """Try again for as long as the gateway says that it is busy."""
        while True:
            try:
                return self._gateway.call(method, path, body, kind)
            except ApiError as error:
                if error.status not in BUSY:
                    raise
                self._pause(error.retry_after_s or POLL_LONGEST_S, deadline)

    def _pause(self, seconds: float, deadline: float) -> None:
        if time.monotonic() + seconds > deadline:
            raise FailedError(f"not indexed within {DOCUMENT_LIMIT_S:g} s")
        if self._given_up.wait(seconds):
            raise FailedError("given up")


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not is_hidden and path.suffix.lower() in MEDIA_TYPES and path.is_file():
            yield path
