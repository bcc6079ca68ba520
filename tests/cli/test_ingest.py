"""Documents on their way to the gateway."""

import asyncio
import itertools
from pathlib import Path

import pytest
from aiohttp import web

from cli import servers
from cli.ingest import find
from cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Documents, and files that are none."""
    root = tmp_path / "docs"
    for name in ("a.md", "b.TXT", "c.html", "deep/d.htm", "deep/e.pdf", "deep/a.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(f"this is {name}".encode())
    for name in ("image.png", ".hidden.md", ".git/x.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no")
    return root


class Library:
    """The gateway's side: indexes a document when it is asked for it the third time."""

    def __init__(self, gateway, broken: str = "") -> None:
        self.received: dict[str, tuple[bytes, str]] = {}
        self.at_once = self.most_at_once = 0
        self._asked: dict[str, int] = {}
        self._broken = broken
        self._gateway = gateway
        self._ids = itertools.count()
        gateway.on("POST", "/v1/collections/my docs/documents", self.add)

    async def add(self, request: web.Request) -> web.Response:
        """Queues."""
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        source, kind = request.query["source"], request.headers["Content-Type"]
        self.received[source] = (await request.read(), kind)
        number = next(self._ids)
        self._gateway.on("GET", f"/v1/ingestions/{number}", self.state_of(source))
        return web.json_response({"ingestion_id": str(number), "status": "queued"}, status=202)

    def state_of(self, source: str):
        """The reply for one document."""

        async def reply(request: web.Request) -> web.Response:
            self._asked[source] = self._asked.get(source, 0) + 1
            if self._asked[source] < 3:
                return web.json_response({"status": "queued", "passages": 0, "error": None})
            self.at_once -= 1
            if source == self._broken:
                state = {"status": "failed", "passages": 0, "error": "It holds no text."}
            else:
                state = {"status": "indexed", "passages": 2, "error": None}
            return web.json_response(state)

        return reply


async def ingest(*paths: Path) -> int:
    """Runs the command beside the loop."""
    arguments = ["ingest", *map(str, paths), "--collection", "my docs"]
    return await asyncio.to_thread(main, arguments)


async def test_everything_below_a_folder_is_indexed(
    gateway, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its path in the folder, with its media type and its very bytes, a few at once."""
    library = Library(gateway)
    assert await ingest(folder) == 0
    assert library.received == {
        "a.md": (b"this is a.md", "text/markdown; charset=utf-8"),
        "b.TXT": (b"this is b.TXT", "text/plain; charset=utf-8"),
        "c.html": (b"this is c.html", "text/html"),
        "deep/a.md": (b"this is deep/a.md", "text/markdown; charset=utf-8"),
        "deep/d.htm": (b"this is deep/d.htm", "text/html"),
        "deep/e.pdf": (b"this is deep/e.pdf", "application/pdf"),
    }
    assert library.most_at_once == 4
    assert capsys.readouterr().out == "6 documents, 12 passages in my docs\n"


async def test_a_failed_document_is_named_and_the_others_go_on(
    gateway, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says so to scripts too."""
    Library(gateway, broken="deep/e.pdf")
    assert await ingest(folder, folder / "image.png", folder / "none.md") == 1
    out, err = capsys.readouterr()
    assert out == "5 documents, 10 passages in my docs\n"
    assert f"{folder / 'deep/e.pdf'}: It holds no text." in err
    assert f"{folder / 'none.md'}: no such file" in err
    assert f"{folder / 'image.png'}: not one of .txt" in err


async def test_a_busy_gateway_is_asked_again(gateway, folder: Path) -> None:
    """After the time that it names."""
    library = Library(gateway)
    refusals = iter([429, 503])

    async def busy(request: web.Request) -> web.StreamResponse:
        status = next(refusals, None)
        if status is None:
            return await library.add(request)
        return web.json_response({}, status=status, headers={"Retry-After": "0.01"})

    gateway.on("POST", "/v1/collections/my docs/documents", busy)
    assert await ingest(folder / "a.md") == 0
    assert list(library.received) == ["a.md"]


async def test_a_wrong_key_is_told_once(
    gateway, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And ends the work."""

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "Wrong API key."}}, status=401)

    gateway.on("POST", "/v1/collections/my docs/documents", refuse)
    assert await ingest(folder) == 1
    assert capsys.readouterr().err == "infermesh ingest: Wrong API key.\n"


def test_no_gateway_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not one per document."""
    monkeypatch.setenv("INFERMESH_URL", f"http://127.0.0.1:{servers.free_port()}")
    assert main(["ingest", str(folder), "--collection", "docs"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "connection refused" in error


def test_a_folder_without_documents_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing would be found later."""
    assert main(["ingest", str(tmp_path), "--collection", "docs"]) == 1
    assert "no documents found" in capsys.readouterr().err


def test_a_file_that_is_given_twice_is_sent_once(folder: Path) -> None:
    """By itself and in its folder."""
    documents, failures = find([folder / "a.md", folder])
    assert [d.source for d in documents].count("a.md") == 1
    assert len(documents) == 6
    assert not failures
