"""Readers that leave, readers that do not read: the generator hears of both at once."""

import asyncio
import json
import socket
from typing import Any

import pytest

from mesh.errors import Code, MeshError

LIMIT_S = 30.0


@pytest.fixture
def settings(settings: Any) -> Any:
    """Slow readers are cut off soon."""
    return settings.model_copy(update={"write_timeout_s": 0.2})


async def connection(stack: Any, **extra: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    body = json.dumps({**stack.body, **extra}).encode()
    sock = socket.socket()
    # small, so that a stream is held up after little of it
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", stack.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=2048)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer a-key-for-development\r\n"
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("extra", [{"stream": True}, {"stream": False}, {"n": 3}])
async def test_client_that_leaves_ends_the_work(stack: Any, extra: dict[str, Any]) -> None:
    """A closed connection closes the generator's iterators, before and after the first text."""
    stack.generator.words = ["Hel", asyncio.Event()]
    reader, writer = await connection(stack, **extra)
    async with asyncio.timeout(LIMIT_S):
        await stack.generator.started.wait()
        if extra.get("stream"):
            await reader.readuntil(b"Hel")
        writer.close()
        await stack.generator.closed.wait()
    assert len(stack.generator.requests) == extra.get("n", 1)


async def test_client_that_leaves_before_the_first_text(stack: Any) -> None:
    """A stream that has not begun is given up too."""
    stack.generator.words = [asyncio.Event()]
    _, writer = await connection(stack, stream=True)
    async with asyncio.timeout(LIMIT_S):
        await stack.generator.started.wait()
        writer.close()
        await stack.generator.closed.wait()


async def test_reader_that_does_not_read_is_cut_off(stack: Any) -> None:
    """A stream waits for its reader no longer than the limit, and holds little meanwhile."""
    stack.generator.words = ["x" * 10_000] * 2000
    _, writer = await connection(stack, stream=True)
    async with asyncio.timeout(LIMIT_S):
        await stack.generator.closed.wait()
    assert stack.generator.running == 0
    writer.close()


async def test_broken_stream_closes_its_connection(stack: Any) -> None:
    """After an error event nothing else is said on the connection."""
    stack.generator.words = ["Hel", MeshError(Code.UNAVAILABLE, "A replica was lost.")]
    reader, writer = await connection(stack, stream=True)
    async with asyncio.timeout(LIMIT_S):
        said = await reader.read(-1)
    assert b"A replica was lost." in said and b"[DONE]" not in said
    assert said.endswith(b"}}\n\n\r\n0\r\n\r\n") and said.count(b"HTTP/1.1") == 1
    writer.close()


async def test_deltas_are_written_as_they_come(stack: Any) -> None:
    """Text reaches the reader before the generator goes on."""
    go = asyncio.Event()
    stack.generator.words = ["one", go, "two"]
    reader, writer = await connection(stack, stream=True)
    async with asyncio.timeout(LIMIT_S):
        await reader.readuntil(b'"one"')
        go.set()
        await reader.readuntil(b"[DONE]")
    writer.close()
