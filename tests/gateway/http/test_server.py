"""What never reaches a handler is answered as any refusal: over bare sockets."""

import asyncio
import gzip
import json
import zlib
from typing import Any, NamedTuple

import pytest
from prometheus_client import REGISTRY

LIMIT_S = 20.0
KEY = b"Authorization: Bearer a-key-for-development\r\nHost: x\r\n"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n" + KEY


class Reply(NamedTuple):
    """One answer, read to the end of its connection."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(stack: Any, *parts: bytes, close: bool = True) -> Reply:
    """Send bytes in as many segments; return the first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    async with asyncio.timeout(LIMIT_S):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        size = int(headers.get("content-length", -1))
        body = await (reader.readexactly(size) if size >= 0 else reader.read())
        if close:
            assert await reader.read() == b""
    writer.close()
    return Reply(int(lines[0].split()[1]), headers, body)


def check_refusal(reply: Reply, status: int) -> None:
    """Our error object, an id, and no word of what is inside."""
    assert reply.status == status, reply
    error = json.loads(reply.body)["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert reply.headers["x-request-id"]
    assert reply.headers["content-type"].startswith("application/json")
    assert b"aiohttp" not in reply.body and b"Traceback" not in reply.body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (CHAT + b"X-Big: " + b"a" * 9_000 + b"\r\n\r\n", 431),
        (CHAT + b"".join(b"X-%d: y\r\n" % i for i in range(500)) + b"\r\n", 431),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (CHAT + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (CHAT + b"Content-Length: -1\r\n\r\n{}", 400),
        (CHAT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", 400),
        (CHAT + b"Expect: a miracle\r\nContent-Length: 2\r\n\r\n{}", 417),
    ],
)
async def test_what_cannot_be_read_is_refused_in_the_words_of_the_api(
    stack: Any, data: bytes, status: int
) -> None:
    """With an id and the right status; the connection ends."""
    check_refusal(await ask(stack, data), status)


async def test_what_cannot_be_read_is_counted_and_never_logged(
    stack: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The client's bytes may hold its key."""
    labels = {"route": "unread", "status": "400"}
    before = REGISTRY.get_sample_value("infermesh_gateway_requests_total", labels) or 0
    broken = b"GET / HTTP/1.1\r\nAuthorization: Be\x0brer sk-infermesh-secret\r\n\r\n"
    check_refusal(await ask(stack, broken), 400)
    after = REGISTRY.get_sample_value("infermesh_gateway_requests_total", labels)
    assert after == before + 1
    assert "secret" not in caplog.text and "Traceback" not in caplog.text
    assert all(record.levelname == "INFO" for record in caplog.records)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br", "gzip, gzip", "x"])
async def test_other_content_codings_are_refused(stack: Any, coding: str) -> None:
    """415 says which are taken."""
    head = CHAT + f"Content-Encoding: {coding}\r\nContent-Length: 2\r\n\r\n".encode()
    reply = await ask(stack, head + b"{}", close=False)
    check_refusal(reply, 415)
    assert reply.headers["accept-encoding"] == "gzip, deflate"


def coded(coding: str, data: bytes) -> bytes:
    """A body in a content coding."""
    if coding.lower().endswith("gzip"):
        return gzip.compress(data[:7]) + gzip.compress(data[7:])
    raw = zlib.compressobj(wbits=-15)
    return raw.compress(data) + raw.flush() if coding == "raw" else zlib.compress(data)


@pytest.mark.parametrize("coding", ["gzip", "X-GZIP", "deflate", "raw", "identity, gzip"])
async def test_gzip_and_deflate_are_decoded(stack: Any, coding: str) -> None:
    """With several members, with and without zlib's header."""
    body = coded(coding, json.dumps(stack.body).encode())
    named = "deflate" if coding == "raw" else coding
    head = f"Content-Encoding: {named}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    reply = await ask(stack, CHAT + head, body, close=False)
    assert reply.status == 200, reply


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw"])
@pytest.mark.parametrize("fault", ["cut", "garbage", "more"])
async def test_a_broken_coding_is_refused_at_once(stack: Any, coding: str, fault: str) -> None:
    """However the body comes; nobody waits for the rest."""
    body = coded(coding, json.dumps(stack.body).encode())
    body = {"cut": body[:-9], "garbage": b"\xff" + body[1:], "more": body + b"\xffmore"}[fault]
    named = "deflate" if coding == "raw" else coding
    head = f"Content-Encoding: {named}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for segments in ((CHAT + head + body,), (CHAT + head, body)):
        check_refusal(await ask(stack, *segments, close=False), 400)


async def test_a_small_body_that_grows_is_bounded(stack: Any) -> None:
    """A gzip bomb is refused by its content's size."""
    body = gzip.compress(b" " * (64 * 2**20))
    head = f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    check_refusal(await ask(stack, CHAT + head + body, close=False), 413)


@pytest.mark.parametrize("extra", [b"", b"Connection: keep-alive\r\n"])
async def test_an_answer_without_length_ends_its_connection_for_http_1_0(
    stack: Any, extra: bytes
) -> None:
    """Only so its end can be told; an answer with a length keeps a connection."""
    body = json.dumps({**stack.body, "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\n" + KEY + extra
    reply = await ask(stack, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert reply.headers["connection"] == "close"
    assert "transfer-encoding" not in reply.headers
    listed = await ask(
        stack, b"GET /v1/models HTTP/1.0\r\n" + KEY + extra + b"\r\n", close=not extra
    )
    assert listed.status == 200


@pytest.mark.parametrize(
    "given", [b"", b"Authorization: Basic eA==\r\n", b"Authorization: Bearer x\r\n"]
)
async def test_a_refused_key_names_the_scheme(stack: Any, given: bytes) -> None:
    """RFC 9110 15.5.2: a 401 says how to authenticate."""
    reply = await ask(
        stack, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + given + b"\r\n", close=False
    )
    check_refusal(reply, 401)
    assert reply.headers["www-authenticate"] == 'Bearer realm="infermesh"'


async def test_health_is_readiness(stack: Any) -> None:
    """Without a key, for GET and HEAD."""
    for method in (b"GET", b"HEAD"):
        request = method + b" /health HTTP/1.0\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(request)
        async with asyncio.timeout(LIMIT_S):
            assert b" 200 " in await reader.readline()
        writer.close()
