"""Models from a hub: one of ours on this machine, which speaks what the library asks for."""

import hashlib
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.models.hub import Reference, choose_files
from cli.models.wheel import PullError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "one.Q4_0.gguf": b"GGUF" + bytes(500_000),
    "config.json": b"{}",
    "notes.md": b"# notes",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository, org/name, with metadata, HEAD, and GET with ranges."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/org/name"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            body = {"id": "org/name", "sha": COMMIT, "siblings": siblings}
            self._send(json.dumps(body).encode(), {"Content-Type": "application/json"})
        elif match := re.match(r"/org/name/resolve/\w+/(.+)", self.path):
            self._send_file(FILES[match[1]])
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send_file(self, data: bytes) -> None:
        etag = hashlib.sha256(data).hexdigest()
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self._send(
            data[int(start[1]) :] if start else data,
            {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"},
            206 if start else 200,
        )

    def _send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def pull(name: str, endpoint: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads its settings when it is imported."""
    environ = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
        "INFERMESH_MODELS": str(folder / "models"),
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
    }
    command = [sys.executable, "-m", "cli.main", "pull", name]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["org/name", "org/name:one.Q4_0.gguf"])
def test_a_model_of_the_hub_is_kept(endpoint: str, name: str, tmp_path: Path) -> None:
    """Its one GGUF file, named or not."""
    ended = pull(name, endpoint, tmp_path)
    assert ended.returncode == 0, ended.stderr
    (path,) = (tmp_path / "models").glob("*/*.gguf")
    assert path.read_bytes() == FILES["one.Q4_0.gguf"]
    assert not (path.parent / "notes.md").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/other", "org/other is not there"),
        ("org/name:two.gguf", "org/name has no file two.gguf"),
    ],
)
def test_what_the_hub_has_not_is_said_in_a_line(
    endpoint: str, name: str, message: str, tmp_path: Path
) -> None:
    """Exit 1, and nothing under the model's name."""
    ended = pull(name, endpoint, tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith(message)
    assert [*(tmp_path / "models").glob("[!.]*")] == []


def test_a_hub_that_is_not_there_is_said_in_a_line(tmp_path: Path) -> None:
    """Exit 1."""
    ended = pull("org/name", "http://127.0.0.1:9", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("infermesh pull: the hub cannot be reached:")


def test_references_are_told_from_names() -> None:
    """An organisation and a name, and a file of it."""
    assert Reference.parse("a/b") == ("a/b", None)
    assert Reference.parse("a/b:c d/e.Q4_K_M.gguf") == ("a/b", "c d/e.Q4_K_M.gguf")
    for text in ("a", "a/b/c", "a/b:", "a/b:c.bin", "/b", "a b/c"):
        assert Reference.parse(text) is None


SIZES = {"README.md": 1, "a.Q4_0.gguf": 4_000_000, "a.Q8_0.gguf": 8_000_000}
SPLIT = {f"b-0000{k}-of-00002.gguf": 1_000_000 for k in (1, 2)}


def test_several_models_are_listed_to_choose_from() -> None:
    """By what one would write, with their sizes; the files of a split model are one."""
    with pytest.raises(PullError) as caught:
        choose_files({**SIZES, **SPLIT}, Reference("o/n", None))
    assert str(caught.value).splitlines()[1:] == [
        "  o/n:a.Q4_0.gguf  4 MB",
        "  o/n:a.Q8_0.gguf  8 MB",
        "  o/n:b-00001-of-00002.gguf  2 MB",
    ]


def test_the_files_of_a_model_are_chosen() -> None:
    """One file, all files of a split model, or a checkpoint's."""
    assert choose_files(SIZES, Reference("o/n", "a.Q8_0.gguf")) == ["a.Q8_0.gguf"]
    assert choose_files(SPLIT, Reference("o/n", None)) == [*SPLIT]
    folder = dict.fromkeys(("config.json", "x.safetensors", "y.bin", "tokenizer.json"), 1)
    assert choose_files(folder, Reference("o/n", None)) == [
        *("config.json", "tokenizer.json", "x.safetensors"),
    ]
    with pytest.raises(PullError, match="neither GGUF"):
        choose_files({"y.bin": 1}, Reference("o/n", None))
