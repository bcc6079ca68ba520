"""Sends a case's bytes over a socket and reads the reply, however the server ends it.

h11 parses the replies: it is strict, and it knows which bytes belong to them.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from enum import Enum

import h11

from tests.e2e.fuzz.case import KEY, Case, Framing, common_headers, head
from tests.e2e.stack import Address

LIMIT_S = 5.0
# a request that ends too early gets this long for an answer before the client half-closes
QUIET_S = 0.25
# between the parts of a request, so that they arrive one by one
PAUSE_S = 0.002
READ_BYTES = 2**16
PROBE_PATH = "/livez"


class End(Enum):
    """How an exchange ended."""

    KEPT = "the connection answered another request"
    CLOSED = "the server or the case closed the connection after the reply"
    DROPPED = "the client left midway"
    SILENT = "the server closed the connection without a reply"
    HUNG = "no end within the limit"
    BROKEN = "the reply is no HTTP or cut off, or nobody listens"
    UNUSABLE = "the connection was to be kept or closed, and was not"


@dataclass(slots=True)
class Reply:
    """What came back; `status` 0 where no head did."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    end: End = End.SILENT
    detail: str = ""


async def exchange(address: Address, case: Case) -> Reply:
    """Return the reply to a case, within LIMIT_S."""
    started = time.monotonic()
    reply = Reply()
    try:
        async with asyncio.timeout(LIMIT_S):
            async with _Connection(address) as connection:
                reply.end = await connection.run(case, reply)
    except TimeoutError:
        reply.end = End.HUNG
    except (h11.RemoteProtocolError, OSError) as error:
        reply.end, reply.detail = End.BROKEN, str(error)
    reply.seconds = time.monotonic() - started
    return reply


class _Connection:
    """One socket; its requests are written while replies are read, as a server may refuse early."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "_Connection":
        host, _, port = self._address.url.removeprefix("http://").partition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sending is not None:
            self._sending.cancel()
        self._writer.transport.abort()

    async def run(self, case: Case, reply: Reply) -> End:
        """Send the case, fill the reply, and return how it ended."""
        parser = _parser(case.method)
        key = self._address.key.encode()
        parts = tuple(part.replace(KEY.encode(), key) for part in case.parts)
        self._sending = asyncio.create_task(self._send(parts))
        whole = await self._receive(parser, reply, case)
        if case.dropped_after is not None and not whole:
            return End.DROPPED
        if not whole:
            return End.SILENT
        if case.framing is not Framing.WHOLE or _is_old_and_kept(parser, reply):
            return End.CLOSED
        await self._sending
        if excess := parser.trailing_data[0]:
            reply.detail = f"after the reply came {excess[:200]!r}"
            return End.UNUSABLE
        if parser.their_state is h11.DONE:
            return await self._probe(parser, reply)
        return await self._closed(reply)

    async def _send(self, parts: tuple[bytes, ...]) -> None:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                self._writer.write(part)
                await self._writer.drain()
                await asyncio.sleep(PAUSE_S)

    async def _receive(self, parser: h11.Connection, reply: Reply, case: Case) -> bool:
        """Return whether a whole reply came before the end."""
        num_bytes = 0
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                if case.dropped_after is not None and num_bytes >= case.dropped_after:
                    return False
                data = await self._read(case)
                num_bytes += len(data)
                if not data and parser.their_state is h11.SEND_RESPONSE:
                    return False
                parser.receive_data(data)
            elif isinstance(event, h11.Response):
                reply.status = event.status_code
                reply.headers = {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in event.headers
                }
            elif isinstance(event, h11.Data):
                reply.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return True
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return False

    async def _read(self, case: Case) -> bytes:
        """Return the next bytes; none at the end. A case that is short ends its own side first."""
        try:
            if case.framing is Framing.SHORT and self._writer.can_write_eof():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(QUIET_S):
                        return await self._reader.read(READ_BYTES)
                self._writer.write_eof()
            return await self._reader.read(READ_BYTES)
        except ConnectionError:
            return b""

    async def _probe(self, parser: h11.Connection, reply: Reply) -> End:
        """Ask again over the same connection."""
        parser.start_next_cycle()
        _request(parser, "GET")
        probe = Case("probe", "GET", PROBE_PATH, ())
        self._writer.write(head("GET", PROBE_PATH, common_headers(None)))
        second = Reply()
        if await self._receive(parser, second, probe) and second.status == 200:
            return End.KEPT
        reply.detail = (
            f"the next request on the connection got {second.status} {second.body[:200]!r}"
        )
        return End.UNUSABLE

    async def _closed(self, reply: Reply) -> End:
        """Wait for the end that the reply announced."""
        with contextlib.suppress(ConnectionError):
            if rest := await self._reader.read(READ_BYTES):
                reply.detail = f"after the reply came {rest[:200]!r}"
                return End.UNUSABLE
        return End.CLOSED


def _is_old_and_kept(parser: h11.Connection, reply: Reply) -> bool:
    """Return whether the reply keeps an HTTP/1.0 connection open, which h11 never counts on."""
    kept = "keep-alive" in reply.headers.get("connection", "").lower()
    return parser.their_http_version == b"1.0" and kept


def _parser(method: str) -> h11.Connection:
    """Return a parser for the reply to this method."""
    parser = h11.Connection(h11.CLIENT)
    _request(parser, method)
    return parser


def _request(parser: h11.Connection, method: str) -> None:
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    parser.send(h11.EndOfMessage())
