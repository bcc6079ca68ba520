"""A bare HTTP/1.1 client that notes when bytes come and reads them after the run.

It shares the cores with what it measures: while requests run it looks at the head of an answer and
at the end of each piece alone.
"""

import asyncio
from dataclasses import dataclass, field

_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass(slots=True)
class Exchange:
    """One request and what came back; moments in seconds of the loop's clock.

    `due_s` is when it should have gone out, `sent_s` when it did. `fault` says why there is no
    whole answer.
    """

    due_s: float
    sent_s: float = 0.0
    pieces: list[bytes] = field(default_factory=list)
    moments_s: list[float] = field(default_factory=list)
    fault: str = ""


class Connection(asyncio.Protocol):
    """One connection, for one exchange at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._exchange: Exchange | None = None
        self._ended: asyncio.Future[None] | None = None
        # bytes until the end of an answer with a length; None while the head is not read
        self._missing: int | None = None
        self._is_chunked = False
        self._tail = b""

    @property
    def is_open(self) -> bool:
        """True while another exchange can go through it."""
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, exchange: Exchange, limit_s: float) -> None:
        """Send a request and note its answer, or its fault."""
        assert self._transport is not None
        self._exchange, self._ended = exchange, self._loop.create_future()
        self._missing, self._is_chunked, self._tail = None, False, b""
        exchange.sent_s = self._loop.time()
        self._transport.write(request)
        try:
            async with asyncio.timeout(limit_s):
                await self._ended
        except TimeoutError:
            exchange.fault = "timeout"
            self._transport.abort()
        finally:
            self._exchange = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Note a piece and when it came."""
        exchange = self._exchange
        if exchange is None:
            return
        exchange.moments_s.append(self._loop.time())
        exchange.pieces.append(data)
        if self._missing is None and not self._is_chunked:
            data = self._read_head(exchange)
        if self._is_chunked:
            self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
            if self._tail == _LAST_CHUNK:
                self._end()
        elif self._missing is not None:
            self._missing -= len(data)
            if self._missing <= 0:
                self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up an answer that is not whole."""
        self._transport = None
        if self._exchange is not None:
            self._exchange.fault = self._exchange.fault or "connection lost"
            self._end()

    def _read_head(self, exchange: Exchange) -> bytes:
        """Return what follows the head, once that is whole."""
        head, found, rest = b"".join(exchange.pieces).partition(_HEAD_END)
        if not found:
            return b""
        lowered = head.lower()
        self._is_chunked = b"transfer-encoding: chunked" in lowered
        if not self._is_chunked:
            after = lowered.partition(_LENGTH)[2]
            self._missing = int(after.split(b"\r\n")[0] or 0)
        return rest

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


class Client:
    """Connections to one server; those that are free are used again."""

    def __init__(self, host: str, port: int, key: str, limit_s: float) -> None:
        self._host, self._port, self._limit_s = host, port, limit_s
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._free: list[Connection] = []

    async def send(self, body: bytes, due_s: float) -> Exchange:
        """Make one request and return it with its answer; it never raises for a server's fault."""
        exchange = Exchange(due_s)
        try:
            connection = await self._connection()
        except OSError as error:
            exchange.fault = type(error).__name__
            return exchange
        request = b"%s%d\r\n\r\n%s" % (self._head, len(body), body)
        await connection.exchange(request, exchange, self._limit_s)
        if connection.is_open:
            self._free.append(connection)
        return exchange

    async def _connection(self) -> Connection:
        while self._free:
            connection = self._free.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection
