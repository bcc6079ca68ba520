"""Bodies that are compressed, chunked or of another length, and bytes that are hardly HTTP."""

import gzip
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

from tests.e2e.fuzz.case import (
    CHAT,
    COMPLETIONS,
    JSON_TYPE,
    Case,
    Framing,
    Headers,
    common_headers,
    head,
)
from tests.e2e.fuzz.generate.bodies import valid
from tests.e2e.fuzz.generate.values import encode

TOO_LONG = 20_000
LINES = (
    b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET /livez\r\n\r\n", b"GET /livez HTTP/9.9\r\n\r\n",
    b"\x00" * 40, b"GET /livez HTTP/1.1\r\n\r\n", b"GET /livez HTTP/1.1\n\n",
    b"GET  /livez  HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n : y\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost x\r\n\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nA\x00: b\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-x\r\n", b"{}\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: x\r\n\r\n",
    b"GET /" + b"a" * TOO_LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"a" * TOO_LONG + b"\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 2000 + b"\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A" * TOO_LONG + b": b\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nConten",
)  # fmt: skip


def encoded_body(rng: Random) -> Case:
    """Return a valid request whose body is compressed or chunked, rightly or not."""
    path = rng.choice((CHAT, COMPLETIONS))
    body = valid(rng, path)
    plain = encode(body, rng)
    makers: tuple[Callable[[], tuple[Headers, bytes, Framing]], ...] = (
        lambda: _packed(rng, "gzip", gzip.compress(plain, mtime=0)),
        lambda: _packed(rng, "deflate", zlib.compress(plain)),
        lambda: _packed(rng, rng.choice(("br", "zstd", "gzip", "deflate", "x")), rng.randbytes(80)),
        lambda: _packed(
            rng, "gzip", gzip.compress(b'{"a": "' + b"x" * 12_000_000 + b'"}', mtime=0)
        ),
        lambda: _chunked(rng, plain),
        lambda: _of_length(rng, plain),
    )
    own, payload, framing = rng.choice(makers)()
    start = head("POST", path, (*common_headers(None), JSON_TYPE, *own))
    parts = (start, *_cut(rng, payload))
    return Case("encoded body", "POST", path, parts, body, has_body=True, framing=framing)


def raw(rng: Random) -> Case:
    """Return bytes that are hardly HTTP; the client ends them where no answer comes."""
    dice = rng.random()
    if dice < 0.7:
        sent = rng.choice(LINES)
    elif dice < 0.85:
        sent = rng.randbytes(rng.randint(1, 400)) + b"\r\n\r\n"
    else:
        whole = bytearray(head("GET", "/v1/models", common_headers(None)))
        for _ in range(rng.randint(1, 3)):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        sent = bytes(whole)
    return Case("raw", "GET", "", tuple(_cut(rng, sent)), framing=Framing.SHORT)


@cache
def _bomb() -> bytes:
    """Return a body of twelve kilobytes that is of twelve megabytes once it is decoded."""
    return gzip.compress(b'{"a": "' + b"x" * 12_000_000 + b'"}', mtime=0)


def _packed(rng: Random, name: str, payload: bytes) -> tuple[Headers, bytes, Framing]:
    if rng.random() < 0.3:
        payload = payload[: rng.randrange(len(payload))]
    own = (("Content-Encoding", name), ("Content-Length", str(len(payload))))
    return own, payload, Framing.WHOLE


def _chunked(rng: Random, plain: bytes) -> tuple[Headers, bytes, Framing]:
    """Return chunks, rightly or with a broken length, extension, trailer or end."""
    chunk = b"%x\r\n%s\r\n" % (len(plain), plain)
    sent, framing = rng.choice((
        (chunk + b"0\r\n\r\n", Framing.WHOLE),
        (b"1\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (plain[:1], len(plain) - 1, plain[1:]),
        Framing.WHOLE),
        (chunk + b"0\r\nA: b\r\n\r\n", Framing.WHOLE),
        (b"%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(plain), plain), Framing.WHOLE),
        (b"0\r\n\r\n", Framing.WHOLE),
        (chunk, Framing.SHORT),
        (b"zz\r\n" + plain, Framing.SHORT),
        (b"-1\r\n" + plain, Framing.SHORT),
        (b"f" * 40 + b"\r\n" + plain, Framing.SHORT),
        (b"%x\r\n%s0\r\n\r\n" % (len(plain), plain), Framing.SHORT),
        (plain, Framing.SHORT),
    ))  # fmt: skip
    name = rng.choice(
        ("chunked", "chunked", "chunked", "Chunked", "gzip, chunked", "identity", "x", "")
    )
    own: Headers = (("Transfer-Encoding", name),)
    if rng.random() < 0.15:
        own = (*own, ("Content-Length", str(len(plain))))
    # what else than `chunked` says where such a body ends is the server's to decide
    return own, sent, framing if own == (("Transfer-Encoding", "chunked"),) else Framing.SHORT


def _of_length(rng: Random, plain: bytes) -> tuple[Headers, bytes, Framing]:
    """Return the body under a length that is not its own, or that is no length."""
    length, framing = rng.choice((
        (str(len(plain) + 10), Framing.SHORT),
        (str(10**12), Framing.SHORT),
        (str(max(0, len(plain) - 10)), Framing.EXCESS),
        ("0", Framing.EXCESS),
        ("-1", Framing.SHORT),
        ("abc", Framing.SHORT),
        ("", Framing.SHORT),
        ("1e2", Framing.SHORT),
        (f"{len(plain)}, {len(plain)}", Framing.SHORT),
        ("9" * 400, Framing.SHORT),
    ))  # fmt: skip
    return (("Content-Length", length),), plain, framing


def _cut(rng: Random, payload: bytes) -> list[bytes]:
    """Return the bytes in up to three parts, which are written one by one."""
    ends = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.choice((0, 0, 1, 2))))
    return [payload[a:b] for a, b in zip([0, *ends], [*ends, len(payload)], strict=True)]
