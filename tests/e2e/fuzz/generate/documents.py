"""Documents: four media types in odd encodings, odd names, and files that are only nearly valid."""

import zlib
from random import Random
from urllib.parse import quote

from tests.e2e.fuzz.case import Case, common_headers, head
from tests.e2e.fuzz.generate.bodies import post
from tests.e2e.fuzz.generate.values import text

MEDIA_TYPES = (
    "text/plain", "text/markdown", "text/html", "application/pdf", "text/plain; charset=utf-8",
    "text/html;charset=utf-8", "text/markdown; charset=utf-8",
)  # fmt: skip
CHARSETS = (
    "utf-8", "UTF8", "latin-1", "iso-8859-15", "windows-1252", "utf-16", "utf-16le", "utf-32",
    "koi8-r", "shift_jis", "gb18030", "big5", "ascii", "utf-7", "cp037", "nonsense", "", "base64",
    "hex", "zlib", "rot13", "idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined",
    "mbcs", "utf-8\x00", '"utf-8"', "'utf-8'", "utf-8; charset=latin-1", "x" * 3000, "\u00fc",
    "utf_8_sig",
)  # fmt: skip
ODD_MEDIA_TYPES = (
    "", "text", "text/", "/plain", "text/css", "application/json", "application/octet-stream",
    "multipart/form-data", "multipart/form-data; boundary=x", "TEXT/PLAIN", "text/plain;", ";;;",
    "text/plain, text/html", "*/*", "application/pdf; x=1", "text/html; charset", "x" * 3000,
)  # fmt: skip
PLAIN = "The Varnholt lighthouse was built in 1871. Its lamp is made of brass.\n"
MARKDOWN = (
    "# Varnholt\n\nThe *lighthouse* has a [lamp](http://x.test/a_(b)).\n\n"
    "```\ncode\n```\n| a | b |\n"
)
PAGE = (
    "<html><head><title>T</title><script>x()</script></head><body><p>Forty roses.</p></body></html>"
)
MARKUP = (
    "<p>", "</p>", "<div>" * 40, "<div>" * 3000, "<!--", "-->", "<![CDATA[", "<script>", "</html>",
    "&#x110000;", "&#0;", "&#xd800;", "&notit;", "<p a='", "<", "\x00", "<table><tr><td>",
    "<meta charset=utf-16>", "<meta charset=nonsense>", "<?xml version='1.0' encoding='x'?>",
    "<!DOCTYPE",
)  # fmt: skip
MARKS = (
    "#" * 200 + " x\n",
    "> " * 500,
    "* " * 500,
    "[" * 500,
    "`" * 3,
    "\n---\n",
    "![a](",
    "<b>",
    "|" * 99,
)
NAMES = (
    "notes.txt", "a/b/c.md", "", " ", ".", "..", "../x", "a\x00b", "\u6f22.md", "\u202etxt.md",
    "\ufffe", "a" * 255, "a" * 3000, "e\u0301", "%41", "a?b#c", "a\nb", "\x7f", "-", "'; --",
    "<|end|>", "\U0010ffff",
)  # fmt: skip
BLOBS = (
    b"", b"\x00" * 500, b"\xff\xfe", b"%PDF-", b"%PDF-1.7\n%%EOF", b" " * 5000, b"\xef\xbb\xbf",
    b"PK\x03\x04", b"\x1f\x8b\x08", b"word " * 4000,
)  # fmt: skip
# few, so that the store stays small
COLLECTIONS = ("fuzz-a", "fuzz-b", "fuzz-c")
ODD_COLLECTIONS = (
    "", " ", ".", "..", "../x", "a b", "A", "\u00fc", "\u6f22", "\x00", "a" * 64, "a" * 65,
    "a" * 2000, "a/b", "-", "_", "%", "a\nb", "\ufffe", "\u202ea", "*", ">", "fuzz.*", "$JS",
    "fuzz-none",
)  # fmt: skip
ODD_ESCAPES = (
    "%",
    "%f",
    "%ff",
    "%00",
    "%zz",
    "%c3%28",
    "%ed%a0%80",
    "%2e%2e%2f",
    "%u0041",
    "%25",
    "+",
)


def document(rng: Random) -> Case:
    """Return a document for one of a few collections, mostly one that can be indexed."""
    media_type = rng.choice(MEDIA_TYPES)
    content = _content(rng, media_type)
    dice = rng.random()
    if dice < 0.25:
        media_type = media_type.partition(";")[0] + "; charset=" + rng.choice(CHARSETS)
    elif dice < 0.35:
        media_type = rng.choice(ODD_MEDIA_TYPES)
    if rng.random() < 0.3:
        content = _spoiled(rng, content)
    target = f"/v1/collections/{_collection(rng)}/documents{_query(rng)}"
    return post("document", target, content, (("Content-Type", media_type),))


def deletion(rng: Random) -> Case:
    """Return the removal of a collection, of a document by id or source, or of neither."""
    target = f"/v1/collections/{_collection(rng)}"
    dice = rng.random()
    if dice < 0.3:
        target += f"/documents/{_escaped(rng, text(rng))}"
    elif dice < 0.6:
        target += f"/documents/{rng.randbytes(16).hex()}"
    elif dice < 0.8:
        target += "/documents" + _query(rng)
    return Case("deletion", "DELETE", target, (head("DELETE", target, common_headers(None)),))


def _content(rng: Random, media_type: str) -> bytes:
    if media_type == "application/pdf":
        return pdf(rng)
    whole = {"text/html": PAGE, "text/markdown": MARKDOWN}.get(media_type.partition(";")[0], PLAIN)
    if rng.random() < 0.4:
        pieces = {"text/html": MARKUP}.get(media_type.partition(";")[0], MARKS)
        at = rng.randrange(len(whole))
        whole = whole[:at] + "".join(rng.choices(pieces, k=3)) + whole[at:]
    if rng.random() < 0.2:
        whole += text(rng)
    codec = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1", "cp1252"))
    return whole.encode(codec, "replace" if codec != "utf-8" else "surrogatepass")


def pdf(rng: Random) -> bytes:
    """Return a PDF of one page with a line of text; its stream may be compressed."""
    shown = rng.choice((b"(Forty roses.) Tj", b"<feff6f22> Tj", b"(((( Tj", b"Tj", b"q " * 500))
    content = b"BT /F1 12 Tf 72 720 Td " + shown + b" ET"
    packing = b""
    if rng.random() < 0.5:
        content, packing = zlib.compress(content), b"/Filter /FlateDecode "
    parts = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< %s/Length %d >>\nstream\n%s\nendstream" % (packing, len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    body, offsets = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    rows = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    table = b"xref\n0 6\n0000000000 65535 f \n" + rows
    trailer = b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(body)
    return body + table + trailer


def _spoiled(rng: Random, content: bytes) -> bytes:
    """Return these bytes cut, with some replaced, with a reference turned round, or others."""
    dice = rng.random()
    if dice < 0.3:
        return content[: rng.randrange(len(content) + 1)]
    if dice < 0.6:
        spoiled = bytearray(content or b"x")
        for _ in range(rng.randint(1, 20)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        return bytes(spoiled)
    if dice < 0.7:
        return content.replace(b"/Kids [3 0 R]", b"/Kids [2 0 R]").replace(
            b"/Length ", b"/Length -"
        )
    if dice < 0.8:
        return content * rng.choice((0, 2, 8))
    return rng.choice((*BLOBS, rng.randbytes(400)))


def _collection(rng: Random) -> str:
    if rng.random() < 0.75:
        return rng.choice(COLLECTIONS)
    return _escaped(rng, rng.choice(ODD_COLLECTIONS))


def _query(rng: Random) -> str:
    dice = rng.random()
    if dice < 0.5:
        return f"?source=notes-{rng.randint(0, 20)}.txt"
    if dice < 0.9:
        return "?source=" + _escaped(rng, rng.choice(NAMES))
    return rng.choice(
        ("", "?", "?source", "?source=a&source=b", "?Source=a", "?source=a&x=1", "?=", "?&&")
    )


def _escaped(rng: Random, name: str) -> str:
    """Return a name in percent-encoding, one time in eight with an escape that is none."""
    escaped = quote(name.encode("utf-8", "surrogatepass"), safe="")
    return escaped + rng.choice(ODD_ESCAPES) if rng.random() < 0.125 else escaped
