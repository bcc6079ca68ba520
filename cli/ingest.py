"""`infermesh ingest`: sends documents to the gateway and waits until they can be found."""

import argparse
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.client import ApiError, Gateway, Json, UnreachableError
from cli.documents import KINDS, MEDIA_TYPES, Document, NameClashError, find, shown

AT_ONCE = 4
DOCUMENT_LIMIT_S = 900.0
POLL_FIRST_S = 0.05
POLL_LONGEST_S = 1.0
BUSY = (429, 503)
# the key is wrong: true of every other document too
HOPELESS = (401, 403)
STATES = ("queued", "indexed", "failed")


T = TypeVar("T")
ODD_REPLY = "the gateway's reply cannot be understood"


class FailedError(Exception):
    """One document was not indexed; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `infermesh ingest`."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help=f"folders, or files: {KINDS}; documents of several begin with their folder's name",
    )
    parser.add_argument("--collection", required=True, metavar="NAME")


def run(arguments: argparse.Namespace) -> int:
    """0 when every passage can be found, else 1."""
    try:
        documents, failures = find(arguments.paths)
    except NameClashError as error:
        documents, failures = [], [str(error)]
    if not documents and not failures:
        failures.append(f"no documents found ({KINDS})")
    if documents:
        try:
            failures += Ingestion(Gateway.from_environment(), arguments.collection).run(documents)
        except ApiError as error:
            failures.append(str(error))
    for failure in failures:
        print(f"infermesh ingest: {shown(failure)}", file=sys.stderr)
    return 1 if failures else 0


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
                    except Exception as error:
                        # whatever is odd about one of them, the others are sent
                        if _is_hopeless(error):
                            raise
                        failures.append(f"{futures[future].path}: {_words(error)}")
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
        ingestion = urllib.parse.quote(_field(queued, "ingestion_id", str), safe="")
        while True:
            state = self._patiently("GET", f"/v1/ingestions/{ingestion}", deadline)
            status = _field(state, "status", str)
            if status == "indexed":
                return _field(state, "passages", int)
            if status == "failed":
                raise FailedError(str(state.get("error") or "it could not be indexed"))
            if status not in STATES:
                raise FailedError(ODD_REPLY)
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


def _field(reply: Json, name: str, kind: type[T]) -> T:
    """Return a value of a reply; raise FailedError where it is missing or of another type."""
    value = reply.get(name)
    if not isinstance(value, kind):
        raise FailedError(ODD_REPLY)
    return value


def _is_hopeless(error: Exception) -> bool:
    """Return whether every other document would fail alike."""
    if isinstance(error, UnreachableError):
        return True
    return isinstance(error, ApiError) and error.status in HOPELESS


def _words(error: Exception) -> str:
    if isinstance(error, ApiError | FailedError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"{type(error).__name__}: {error}"
