"""Documents on their way to the gateway."""

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path

import pytest
from aiohttp import web

from cli import servers
from cli.documents import find
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
        "a.md": (b"this is a.md", "text/markdown"),
        "b.TXT": (b"this is b.TXT", "text/plain"),
        "c.html": (b"this is c.html", "text/html"),
        "deep/a.md": (b"this is deep/a.md", "text/markdown"),
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


def tree(root: Path, *names: str) -> Path:
    """A folder with these files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"this is {name!r}")
    return root


def sources(*paths: Path) -> list[str]:
    """What the documents below these paths are called."""
    documents, failures = find(paths)
    assert not failures
    return [document.source for document in documents]


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    """By the folder, and by as many above it as it takes; the same in each run."""
    tree(tmp_path, "a/notes.txt", "b/notes.txt", "b/deep/notes.txt", "x/docs/n.md", "y/docs/n.md")
    at = tmp_path.joinpath
    assert sources(at("a")) == ["notes.txt"]
    assert sources(at("a"), at("b")) == ["a/notes.txt", "b/notes.txt", "b/deep/notes.txt"]
    assert sources(at("x/docs"), at("y/docs")) == ["x/docs/n.md", "y/docs/n.md"]
    files = at("a/notes.txt"), at("b/notes.txt"), at("x/docs/n.md")
    assert sources(*files) == ["a/notes.txt", "b/notes.txt", "n.md"]
    assert sources(at("b"), at("b/deep")) == ["b/notes.txt", "b/deep/notes.txt"]
    assert sources(at("a"), at("a"), at("b/../a")) == ["notes.txt"]
    assert sources(at("a/notes.txt")) == ["notes.txt"]


def test_a_link_is_no_second_document(tmp_path: Path) -> None:
    """Under its first name; a link to a folder is not followed."""
    tree(tmp_path, "a/one.txt")
    (tmp_path / "a/two.txt").symlink_to(tmp_path / "a/one.txt")
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    assert sources(tmp_path / "a") == ["one.txt"]


def test_names_that_clash_all_the_same_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is sent, by both paths."""
    tree(tmp_path, "x/b/n.txt", "y/c/n.txt", "z/b/n.txt")
    # the files are told apart by their folders, one of which is called as the folder that is given
    paths = [tmp_path / name for name in ("x/b/n.txt", "y/c/n.txt", "z/b")]
    assert main(["ingest", *map(str, paths), "--collection", "docs"]) == 1
    clash = f"{paths[0]} and {paths[2] / 'n.txt'} would both be called b/n.txt; nothing was sent"
    assert capsys.readouterr().err == f"infermesh ingest: {clash}\n"


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take no such names")
async def test_a_name_that_is_not_utf8_fails_alone(
    gateway, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, in signs that a terminal can show; all others are indexed."""
    name = os.fsdecode(b"caf\xe9.txt")
    tree(folder, name)
    library = Library(gateway)
    assert await ingest(folder) == 1
    out, err = capsys.readouterr()
    assert out == "6 documents, 12 passages in my docs\n" and len(library.received) == 6
    assert "caf\\udce9.txt: its name is not UTF-8" in err and "Traceback" not in err


async def test_a_file_that_cannot_be_read_fails_alone(
    gateway, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that vanished meanwhile, say."""
    Library(gateway)
    read = Path.read_bytes

    def vanishing(path: Path) -> bytes:
        return read(path if path.name != "c.html" else path / "gone")

    monkeypatch.setattr(Path, "read_bytes", vanishing)
    assert await ingest(folder) == 1
    out, err = capsys.readouterr()
    assert out == "5 documents, 10 passages in my docs\n"
    assert err == f"infermesh ingest: {folder / 'c.html'}: Not a directory\n"


@pytest.mark.parametrize(
    "reply",
    ["", "[]", "null", "{", "{}", '{"ingestion_id": 5}', '{"ingestion_id": null}', "[" * 9999],
    ids=range(8),
)  # fmt: skip
async def test_an_odd_reply_to_a_document_fails_it_alone(
    gateway, folder: Path, capsys: pytest.CaptureFixture[str], reply: str
) -> None:
    """Whatever it is that answers; the others go on."""
    library = Library(gateway)

    async def odd(request: web.Request) -> web.StreamResponse:
        if request.query["source"] == "b.TXT":
            await request.read()
            return web.Response(text=reply, content_type="application/json")
        return await library.add(request)

    gateway.on("POST", "/v1/collections/my docs/documents", odd)
    assert await ingest(folder) == 1
    out, err = capsys.readouterr()
    assert out == "5 documents, 10 passages in my docs\n"
    assert err.count("\n") == 1 and "b.TXT: the" in err


@pytest.mark.parametrize(
    "state",
    [{}, {"status": 1}, {"status": "lost"}, {"status": "indexed", "passages": "two"}, "cut"],
)
async def test_an_odd_state_of_a_document_fails_it_alone(
    gateway, folder: Path, capsys: pytest.CaptureFixture[str], state: object
) -> None:
    """A status of no meaning is not waited for, and a broken reply says nothing of the next."""
    library = Library(gateway)

    async def odd(request: web.Request) -> web.StreamResponse:
        if state != "cut":
            return web.json_response(state)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def add(request: web.Request) -> web.StreamResponse:
        response = await library.add(request)
        if request.query["source"] == "b.TXT":
            number = json.loads(response.text or "")["ingestion_id"]
            gateway.on("GET", f"/v1/ingestions/{number}", odd)
        return response

    gateway.on("POST", "/v1/collections/my docs/documents", add)
    assert await ingest(folder) == 1
    out, err = capsys.readouterr()
    assert out == "5 documents, 10 passages in my docs\n"
    assert err.count("\n") == 1 and "b.TXT: " in err
