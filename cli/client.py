"""HTTP to the gateway, blocking: small calls with JSON replies, and streams of server-sent events.

The commands have no loop of their own; threads carry what runs at once.
"""

import json
import math
import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Iterable, Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, cast

from cli import keys

DEFAULT_URL = "http://127.0.0.1:8080"
DEV_KEY = Path(".infermesh/dev-key")
TIMEOUT_S = 60.0
ERROR_BYTES = 64 * 2**10
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# no connection came about: true of every further call
_NOBODY = (ConnectionRefusedError, socket.gaierror)
Json = dict[str, Any]


class ApiError(Exception):
    """The gateway refused or failed; the text is for a person. `status` 0: it was not reached."""

    def __init__(
        self, status: int, message: str, code: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class UnreachableError(ApiError):
    """Nobody answers at the gateway's address."""


class Gateway:
    """One gateway and one key. Safe to use from several threads."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._key = key
        local = urllib.parse.urlsplit(url).hostname in LOOPBACK
        proxies = [urllib.request.ProxyHandler({})] if local else []
        self._opener = urllib.request.build_opener(*proxies)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Gateway":
        """INFERMESH_URL and INFERMESH_API_KEY, else the stack of this folder."""
        key = environ.get("INFERMESH_API_KEY") or keys.read(DEV_KEY)
        return cls(environ.get("INFERMESH_URL") or DEFAULT_URL, key)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> Json:
        """Make one request and return its JSON reply; raise ApiError."""
        with self._open(method, path, body, content_type) as response:
            try:
                reply = json.loads(_read(response))
            except (ValueError, RecursionError) as error:
                raise ApiError(response.status, "the reply is no JSON") from error
        if not isinstance(reply, dict):
            raise ApiError(response.status, "the reply is no JSON object")
        return reply

    def stream(self, path: str, body: Json) -> Generator[Json, None, None]:
        """Yield the events of a streaming call; closing the iterator ends the call.

        Raises ApiError, also where the stream ends without its end mark.
        """
        with self._open("POST", path, json.dumps(body).encode(), "application/json") as response:
            try:
                for data in events(response):
                    if data == "[DONE]":
                        return
                    event = _event(response.status, data)
                    if "error" in event:
                        raise _refusal(response.status, event)
                    yield event
            except (OSError, HTTPException) as error:
                raise ApiError(0, f"the answer broke off: {error}") from error
        raise ApiError(0, "the answer broke off")

    def _open(self, method: str, path: str, body: bytes | None, content_type: str) -> HTTPResponse:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": content_type}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            return cast(HTTPResponse, self._opener.open(request, timeout=TIMEOUT_S))
        except urllib.error.HTTPError as error:
            with error:
                raise _failure(error) from None
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            # one broken reply says nothing of the next; nobody there does
            kind = UnreachableError if isinstance(reason, _NOBODY) else ApiError
            raise kind(0, f"cannot reach {self.url}: {_words(reason)}") from None


def events(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the data of each server-sent event by the HTML standard; leave out the rest.

    An event that its blank line does not end is not complete and is dropped.
    """
    data: list[str] = []
    for raw in lines:
        line = raw.decode(errors="replace").rstrip("\r\n")
        if not line:
            if data:
                yield "\n".join(data)
            data = []
            continue
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))


def _event(status: int, data: str) -> Json:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(status, "an event of the answer is no JSON") from error
    if not isinstance(event, dict):
        raise ApiError(status, "an event of the answer is no JSON object")
    return event


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read()
    except (OSError, HTTPException) as error:
        raise ApiError(0, f"the reply broke off: {error}") from error


def _failure(error: urllib.error.HTTPError) -> ApiError:
    try:
        reply = json.loads(error.read(ERROR_BYTES))
    except (ValueError, RecursionError, OSError, HTTPException):
        reply = {}
    return _refusal(error.code, reply, _seconds(error.headers.get("Retry-After", "")))


def _seconds(text: str) -> float | None:
    """Return a time to wait; None where it is a date, or no time at all."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _refusal(status: int, reply: Any, retry_after_s: float | None = None) -> ApiError:
    fault = reply.get("error") if isinstance(reply, dict) else None
    if not isinstance(fault, dict):
        return ApiError(status, f"HTTP status {status}", retry_after_s=retry_after_s)
    message = str(fault.get("message") or f"HTTP status {status}")
    return ApiError(status, message, str(fault.get("code") or ""), retry_after_s)


def _words(reason: object) -> str:
    if isinstance(reason, ConnectionRefusedError):
        return "connection refused (is `infermesh up` running? else set INFERMESH_URL)"
    if isinstance(reason, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(reason, socket.gaierror):
        return "no such host"
    return str(reason)
