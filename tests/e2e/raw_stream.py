"""A streaming chat over a bare socket, which a client can close at a moment of its choice."""

import asyncio
import json
from typing import Any, Self

from tests.e2e.stack import Address


class RawStream:
    """One chat completion as server-sent events; `close` is what a client does that leaves."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: Address, **body: Any) -> Self:
        """Send the request and return when the head of the answer says 200."""
        host, _, port = address.url.removeprefix("http://").partition(":")
        stream = cls(*await asyncio.open_connection(host, int(port)))
        payload = json.dumps({"stream": True, **body}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {address.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        stream._writer.write(head.encode() + payload)
        answer = await stream._reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        return stream

    async def text(self) -> str:
        """Return the next piece of text; empty where an event has none."""
        choices = (await self._event())["choices"]
        return str(choices[0]["delta"].get("content", "")) if choices else ""

    async def usage(self) -> dict[str, int]:
        """Return the usage, which comes after all text where it was asked for."""
        while not (usage := (await self._event()).get("usage")):
            pass
        return dict(usage)

    def close(self) -> None:
        """Close the socket, whatever is under way."""
        self._writer.close()

    async def _event(self) -> dict[str, Any]:
        while True:
            line = await self._reader.readline()
            assert line, "the connection ended"
            # between events there are empty lines, keep-alives and the lengths of HTTP's chunks
            if line.startswith(b"data: {"):
                return dict(json.loads(line.removeprefix(b"data: ")))
