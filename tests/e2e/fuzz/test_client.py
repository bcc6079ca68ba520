"""The client tells how an exchange ended, against servers that end it in every way."""

import asyncio

import pytest

from tests.e2e.fuzz import client
from tests.e2e.fuzz.case import Case, Framing, common_headers, head
from tests.e2e.fuzz.client import End, Reply, exchange
from tests.e2e.stack import Address

GET = head("GET", "/", common_headers(None))
KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSING = KEPT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
OLD = KEPT.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"


async def meet(answers: list[bytes], case: Case, then_close: bool = True) -> Reply:
    """Send the case to a server that gives one of these answers per request it reads."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        if not then_close:
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await exchange(Address(f"http://127.0.0.1:{port}", "key"), case)


@pytest.mark.parametrize(
    ("answers", "end"),
    [
        ([KEPT, KEPT], End.KEPT),
        ([CLOSING], End.CLOSED),
        ([OLD], End.CLOSED),
        ([b""], End.SILENT),
        ([CHUNKED], End.BROKEN),
        ([KEPT[:-1]], End.BROKEN),
        ([b"no HTTP\r\n\r\n"], End.BROKEN),
        ([KEPT], End.UNUSABLE),
        ([KEPT, KEPT.replace(b"200", b"400")], End.UNUSABLE),
        ([CLOSING + b"more"], End.UNUSABLE),
        ([KEPT + KEPT], End.UNUSABLE),
    ],
)
async def test_each_end_has_its_name(answers: list[bytes], end: End) -> None:
    """Kept, closed as said, cut off, no HTTP, or another end than the reply announced."""
    reply = await meet(answers, Case("any", "GET", "/", (GET,)))
    assert reply.end is end, reply


@pytest.mark.parametrize("answers", [[b""], [KEPT, b""], [CLOSING]])
async def test_silence_is_a_hang(answers: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """No reply, none to the next request, or no end of the connection that was announced."""
    monkeypatch.setattr(client, "LIMIT_S", 0.2)
    reply = await meet(answers, Case("any", "GET", "/", (GET,)), then_close=False)
    assert reply.end is End.HUNG


async def test_a_short_request_is_ended_by_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits for the rest gets the end of the connection instead."""
    monkeypatch.setattr(client, "QUIET_S", 0.01)
    case = Case("any", "GET", "/", (GET[:-2],), framing=Framing.SHORT)
    assert (await meet([b""], case)).end is End.SILENT


async def test_a_stream_is_dropped_midway() -> None:
    """The client leaves after the bytes that the case says."""
    case = Case("any", "GET", "/", (GET,), dropped_after=10)
    reply = await meet([CHUNKED], case, then_close=False)
    assert reply.end is End.DROPPED


async def test_nobody_listens() -> None:
    """A gateway that has gone is a fault, and no error of the test."""
    reply = await exchange(Address("http://127.0.0.1:1", "key"), Case("any", "GET", "/", (GET,)))
    assert reply.end is End.BROKEN
