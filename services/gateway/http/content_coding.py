"""Content codings of request bodies (RFC 9110, 8.4): gzip and deflate, within a limit."""

import zlib
from collections.abc import Iterable

from aiohttp import web

ACCEPTED = "gzip, deflate"
# zlib's own header and checksum, gzip's, or neither
_ZLIB, _GZIP, _RAW = zlib.MAX_WBITS, 16 + zlib.MAX_WBITS, -zlib.MAX_WBITS
# RFC 1950: the compression method in the low bits of a stream's first byte
_METHOD_MASK, _DEFLATE_METHOD = 0x0F, 8


class BrokenCodingError(Exception):
    """A body is not what its content coding says."""


class Decoder:
    """Decodes one body that comes in parts; `coding` is gzip or deflate."""

    def __init__(self, coding: str) -> None:
        self._is_gzip = coding == "gzip"
        self._stream = zlib.decompressobj(_GZIP) if self._is_gzip else None

    def feed(self, data: bytes, limit: int) -> bytes:
        """Return the next part's content, at most `limit` bytes; raise BrokenCodingError.

        More than that is lost: ask for one byte more than may be.
        """
        content = b""
        while data and len(content) < limit:
            if self._stream is None or (self._is_gzip and self._stream.eof):
                # a gzip body may have several members; many send deflate without zlib's header
                has_header = data[0] & _METHOD_MASK == _DEFLATE_METHOD
                bits = _GZIP if self._is_gzip else _ZLIB if has_header else _RAW
                self._stream = zlib.decompressobj(bits)
            if self._stream.eof:
                raise BrokenCodingError
            try:
                content += self._stream.decompress(data, limit - len(content))
            except zlib.error:
                raise BrokenCodingError from None
            data = self._stream.unconsumed_tail or self._stream.unused_data
        return content

    def end(self) -> None:
        """Raise BrokenCodingError where the body was cut."""
        if self._stream is not None and not self._stream.eof:
            raise BrokenCodingError


def decoder(fields: Iterable[str]) -> Decoder | None:
    """Return the decoder for the fields `Content-Encoding`; None where the body is as it is.

    Raises 415 for other codings than gzip and deflate, and for several.
    """
    codings = [coding.strip().lower() for field in fields for coding in field.split(",")]
    codings = [coding.removeprefix("x-") for coding in codings if coding not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in ("gzip", "deflate"):
        raise web.HTTPUnsupportedMediaType(headers={"Accept-Encoding": ACCEPTED})
    return Decoder(codings[0])
