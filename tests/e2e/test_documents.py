"""Documents over HTTP: what is sent is what can be found, or its owner is told why not."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.stack import Address, wait
from tests.e2e.test_api import infermesh

pytestmark = pytest.mark.e2e

RUSSIAN = "Кодовое слово: мармелад."


class Store:
    """One fresh collection."""

    def __init__(self, http: httpx.Client, model: str) -> None:
        self.http = http
        self.model = model
        self.name = f"documents-{uuid.uuid4().hex[:8]}"

    def post(self, source: str, content: bytes, media_type: str) -> httpx.Response:
        """Send a document."""
        path = f"/collections/{self.name}/documents"
        headers = {"Content-Type": media_type}
        return self.http.post(path, params={"source": source}, content=content, headers=headers)

    def ingest(self, source: str, content: bytes, media_type: str) -> Any:
        """Send a document; return its ingestion once it has ended."""
        queued = self.post(source, content, media_type).raise_for_status().json()
        path = f"/ingestions/{queued['ingestion_id']}"
        wait(lambda: self.http.get(path).json()["status"] != "queued", 60)
        return self.http.get(path).json()

    def citations(self, query: str) -> Any:
        """What a chat about these documents cites, nearest first."""
        retrieval = {"collection": self.name, "query": query, "top_k": 10}
        messages = [{"role": "user", "content": "Hi"}]
        body = {"model": self.model, "messages": messages, "max_tokens": 1, "retrieval": retrieval}
        return self.http.post("/chat/completions", json=body).raise_for_status().json()["citations"]


@pytest.fixture
def store(address: Address, model: str) -> Iterator[Store]:
    """A collection and a client that knows no proxies."""
    headers = {"Authorization": f"Bearer {address.key}"}
    url = f"{address.url}/v1"
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as http:
        yield Store(http, model)


@pytest.mark.parametrize(
    ("media_type", "content", "length"),
    [
        ("text/html; charset=windows-1251", f"<p>{RUSSIAN}".encode("cp1251"), len(RUSSIAN)),
        ("text/html; charset=koi8-r", f"<p>{RUSSIAN}".encode("koi8-r"), len(RUSSIAN)),
        ("text/html; charset=Shift_JIS", "<p>マーマレード".encode("cp932"), 6),
        ("text/html", f"<meta charset=koi8-r>{RUSSIAN}".encode("koi8-r"), len(RUSSIAN)),
        ("text/plain; charset=utf-16le", RUSSIAN.encode("utf-16-le"), len(RUSSIAN)),
        ("text/plain; charset=iso-8859-1", "café".encode("latin-1"), 4),
        ("text/markdown", b"```\n# x = __init__\n```\n", len("# x = __init__")),
        ("text/markdown", b"---\nSome prose.\n---\nEnd.\n", len("Some prose.\n\nEnd.")),
        ("text/markdown", b"A `<!--` b.\n\nThen --> c.\n", len("A <!-- b.\n\nThen --> c.")),
        ("text/html", b"<p>First.</p><svg><path d='M0'><p>A word.</p>", len("First.\n\nA word.")),
    ],
)  # fmt: skip
def test_all_of_a_documents_text_can_be_found(
    store: Store, media_type: str, content: bytes, length: int
) -> None:
    """Its one passage runs from the first to the last character of the text."""
    assert store.ingest("a", content, media_type)["status"] == "indexed"
    assert [(c["start"], c["end"]) for c in store.citations("word")] == [(0, length)]


@pytest.mark.parametrize(
    ("media_type", "content", "words"),
    [
        ("text/html", f"<p>{RUSSIAN}".encode("cp1251"), "byte 3"),
        ("text/plain", RUSSIAN.encode("cp1251"), "byte 0"),
        ("text/plain; charset=shift_jis", b"ab\xff", "byte 2"),
        ("text/plain; charset=klingon", b"ab", "klingon"),
    ],
)
def test_what_cannot_be_read_is_refused_at_the_door(
    store: Store, media_type: str, content: bytes, words: str
) -> None:
    """Nothing is indexed as garbage."""
    refused = store.post("a", content, media_type)
    assert refused.status_code == 400
    assert words in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "name", ["a\u202fb", "a\u00a0b", "\u5168\u3000\u540d", "\u0646\u200c\u0647"]
)
def test_names_that_people_write_are_taken(store: Store, name: str) -> None:
    """And told as they were sent."""
    assert store.ingest(name, b"hello", "text/plain")["status"] == "indexed"
    assert [c["source"] for c in store.citations("hello")] == [name]


@pytest.mark.parametrize("name", ["a\u202eb", "a\x00b", "a\nb", "\u3000", "a\u2066b"])
def test_names_that_deceive_are_refused(store: Store, name: str) -> None:
    """By the field's name."""
    refused = store.post(name, b"hello", "text/plain")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "source"


def test_ingest_keeps_documents_of_one_name_apart(
    store: Store, address: Address, tmp_path: Path
) -> None:
    """Two folders with `notes.txt`, and a name that no gateway can be told: the sum is right."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "notes.txt").write_text(f"Notes of {folder}.")
    (tmp_path / "b" / os.fsdecode(b"caf\xe9.txt")).write_text("lost?")
    done = infermesh(
        address, "ingest", str(tmp_path / "a"), str(tmp_path / "b"), "--collection", store.name
    )
    assert (done.returncode, done.stdout) == (1, f"2 documents, 2 passages in {store.name}\n")
    assert "its name is not UTF-8" in done.stderr and done.stderr.count("\n") == 1
    assert {c["source"] for c in store.citations("notes")} == {"a/notes.txt", "b/notes.txt"}
    listed = store.http.get("/collections").json()["data"]
    assert {"name": store.name, "documents": 2, "passages": 2} in listed


def test_embeddings_are_never_cut_in_silence(store: Store) -> None:
    """A text over the encoder's limit is named with its tokens; a cut is asked for and told."""
    encoder = store.http.get("/models").json()["data"][-1]["id"]
    long = ["the same words " * 100 + end for end in ("alpha", "omega")]

    def embed(value: Any, **more: Any) -> Any:
        return store.http.post("/embeddings", json={"model": encoder, "input": value, **more})

    refused = embed(["short", *long])
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == "input[1]" and "256" in error["message"]
    assert embed(long[0]).json()["error"]["param"] == "input"
    for more in ({"truncate": True}, {"truncate_prompt_tokens": -1}):
        usage = embed(long, **more).json()["usage"]
        assert usage["prompt_tokens"] == 512
        assert usage["prompt_tokens_details"]["truncated_tokens"] > 0
    ids = embed([[2023, 2003, 1037, 3231]]).json()["data"][0]["embedding"]
    text = embed("this is a test").json()["data"][0]["embedding"]
    assert max(abs(a - b) for a, b in zip(ids, text, strict=True)) < 1e-5


def test_a_retrieval_from_a_long_message_is_answered(store: Store) -> None:
    """Whatever its length; what it asks at its end decides."""
    for name, text in (("bread", "Rye bread rises slowly."), ("fox", "The fox lives in a den.")):
        assert store.ingest(name, text.encode(), "text/plain")["status"] == "indexed"
    query = "We walked along the beach for a while. " * 3_000 + "Where does the fox live?"
    assert store.citations(query)[0]["source"] == "fox"


def test_what_is_deleted_is_found_no_more(store: Store) -> None:
    """A document, then its collection; again is 404, and it may come back."""
    for name in ("a.txt", "b.txt"):
        assert store.ingest(name, b"Some words.", "text/plain")["status"] == "indexed"
    path = f"/collections/{store.name}"
    gone = store.http.delete(f"{path}/documents", params={"source": "a.txt"})
    assert gone.status_code == 200 and gone.json()["deleted"] is True
    assert [c["source"] for c in store.citations("words")] == ["b.txt"]
    assert store.http.delete(f"{path}/documents", params={"source": "a.txt"}).status_code == 404
    assert store.http.delete(path).json()["object"] == "collection.deleted"
    assert store.name not in [c["name"] for c in store.http.get("/collections").json()["data"]]
    assert store.http.delete(path).status_code == 404
    assert store.ingest("a.txt", b"Some words.", "text/plain")["status"] == "indexed"
    assert [c["source"] for c in store.citations("words")] == ["a.txt"]
