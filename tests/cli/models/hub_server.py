"""A hub on this machine: one repository, with metadata, hashes, and files by ranges; its pulls."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GGUF = b"GGUF" + os.urandom(500_000)
FILES = {"one.Q4_0.gguf": GGUF, "config.json": b"{}", "notes.md": b"# notes"}


def blob_id(data: bytes) -> str:
    """What git calls a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sibling(name: str, data: bytes) -> dict[str, object]:
    """A file in the metadata of its repository; GGUF files and safetensors are in LFS."""
    lfs = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
    entry = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
    return entry | {"lfs": lfs} if name.endswith((".gguf", ".safetensors")) else entry


@dataclass
class Hub:
    """What it has of `org/name`, and how it answers; `requests` are of files, with their range."""

    files: dict[str, bytes]
    url: str = ""
    siblings: list[dict[str, object]] | None = None
    knows_ranges: bool = True
    range_shift: int = 0
    api: tuple[int, dict[str, str], bytes] | None = None
    file_status: tuple[int, dict[str, str]] | None = None
    # a file is sent up to its half, and its rest when this is set
    goes_on: threading.Event = field(default_factory=threading.Event)
    is_half_way: threading.Event = field(default_factory=threading.Event)
    breaks: int = 0
    token: str | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def metadata(self) -> bytes:
        """Return the answer of the API."""
        siblings = self.siblings
        if siblings is None:
            siblings = [sibling(name, data) for name, data in self.files.items()]
        return json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for the server's `hub`."""

    hub: Hub

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/org/name"):
            status, headers, body = self.hub.api or (200, {}, self.hub.metadata())
            self._send(status, {"Content-Type": "application/json", **headers}, body)
        elif match := re.match(rf"/org/name/resolve/{COMMIT}/(.+)", self.path):
            self.hub.requests.append((match[1], self.headers.get("Range")))
            token = self.hub.token
            if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
                self._send(401, {}, b"")
            elif self.hub.file_status is not None:
                self._send(*self.hub.file_status, b"")
            else:
                self._send_file(self.hub.files[match[1]])
        else:
            self._send(404, {"X-Error-Code": "RepoNotFound"}, b"")

    def _send_file(self, data: bytes) -> None:
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is None or not self.hub.knows_ranges:
            self._send(200, {}, data)
            return
        start = int(asked[1]) + self.hub.range_shift
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self._send(206, headers, data[start:])

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        half = len(body) // 2
        if "resolve" not in self.path or half == 0:
            self.wfile.write(body)
            return
        self.wfile.write(body[:half])
        self.wfile.flush()
        self.hub.is_half_way.set()
        if self.hub.breaks:
            self.hub.breaks -= 1
            self.close_connection = True
            return
        if self.hub.goes_on.wait(60):
            self.wfile.write(body[half:])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Have a hub answer while the block runs; files come whole unless `goes_on` is cleared."""
    hub.goes_on.set()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.goes_on.set()
        server.shutdown()
        server.server_close()


def command(name: str) -> list[str]:
    return [sys.executable, "-m", "cli.main", "pull", name]


def environment(url: str, folder: Path, **more: str) -> dict[str, str]:
    """The library reads its settings when it is imported, so a pull is a process of its own."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "20",
        "INFERMESH_MODELS": str(folder / "models"),
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        **more,
    }


def pull(
    name: str,
    url: str,
    folder: Path,
    before: Callable[[], None] | None = None,
    **more: str,
) -> subprocess.CompletedProcess[str]:
    environ = environment(url, folder, **more)
    return subprocess.run(
        command(name), env=environ, capture_output=True, text=True, timeout=60, preexec_fn=before
    )
