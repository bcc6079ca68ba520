"""Reads request bodies within limits of size and time."""

import asyncio
import json

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mesh.errors import invalid
from services.gateway.http.content_coding import BrokenCodingError, decoder

READ_LIMIT_S = 60.0
# larger bodies are decoded in a thread: they would hold up every stream
INLINE_JSON_BYTES = 64 * 1024


async def read_bytes(request: web.Request, limit_bytes: int) -> bytes:
    """Return the request's body.

    Raises 413 as soon as it is larger than the limit, 415 for a content coding that we lack,
    INVALID_ARGUMENT when it is cut or broken.
    """
    parts = []
    size = 0
    decoding = decoder(request.headers.getall("Content-Encoding", ()))
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            async for data in request.content.iter_any():
                part = data if decoding is None else decoding.feed(data, limit_bytes + 1 - size)
                size += len(part)
                if size > limit_bytes:
                    raise web.HTTPRequestEntityTooLarge(limit_bytes, size)
                parts.append(part)
        if decoding is not None:
            decoding.end()
    except TimeoutError:
        raise invalid("body", f"The body did not arrive within {READ_LIMIT_S:.0f} s.") from None
    except (web.RequestPayloadError, HttpProcessingError, BrokenCodingError):
        raise invalid("body", "The body's encoding is broken.") from None
    return b"".join(parts)


async def read_json(request: web.Request, limit_bytes: int) -> object:
    """Return the request's body as JSON; raises MeshError where it is none."""
    raw = await read_bytes(request, limit_bytes)
    try:
        if len(raw) <= INLINE_JSON_BYTES:
            return decoded(raw)
        return await asyncio.to_thread(decoded, raw)
    except (ValueError, RecursionError):
        raise invalid("body", "The body is not valid JSON.") from None


def decoded(raw: bytes) -> object:
    """Return a JSON value by the letter of RFC 8259: NaN and Infinity are none."""
    return json.loads(raw, parse_constant=_no_constant)


def _no_constant(name: str) -> object:
    raise ValueError(name)
