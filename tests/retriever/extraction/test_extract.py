"""Text out of four media types, and clear words for what cannot be read."""

import io

import pytest
from pypdf import PdfReader, PdfWriter

from mesh.errors import Code, MeshError
from services.retriever.extraction.extract import check, extract
from services.retriever.extraction.media_type import MediaType
from tests.retriever.pdf import pdf


def read(media_type: str, content: bytes) -> str:
    """The text of a document of this media type."""
    return extract(MediaType.of(media_type, ""), content)


@pytest.mark.parametrize(
    ("declared", "source", "expected"),
    [
        ("", "a.TXT", "text/plain"),
        ("", "notes/b.md", "text/markdown"),
        ("", "c.htm", "text/html"),
        ("", "d.pdf", "application/pdf"),
        ("text/html; charset=utf-8", "e", "text/html"),
        ("TEXT/PLAIN", "f.pdf", "text/plain"),
    ],
)
def test_media_type_is_declared_or_told_by_the_suffix(
    declared: str, source: str, expected: str
) -> None:
    """What is declared wins."""
    assert MediaType.of(declared, source).kind == expected


@pytest.mark.parametrize(
    ("declared", "source"), [("image/png", "a.txt"), ("", "a.docx"), ("", "a")]
)
def test_other_media_types_are_refused(declared: str, source: str) -> None:
    """The error names the field and what is accepted."""
    with pytest.raises(MeshError, match="text/markdown") as caught:
        MediaType.of(declared, source)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "media_type")


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("text/plain", b"caf\xe9 au lait", "UTF-8: byte 3"),
        ("text/markdown", b"\xff", "UTF-8"),
        ("text/plain", b" \n\t ", "no text"),
        ("text/html", b"<script>x = 1</script>", "no text"),
        ("application/pdf", b"%PDF-1.4 but no more", "broken"),
        ("application/pdf", b"plain words", "broken"),
    ],
)
def test_content_that_cannot_be_read_is_refused(kind: str, content: bytes, message: str) -> None:
    """The error is the caller's and names the field."""
    with pytest.raises(MeshError, match=message) as caught:
        read(kind, content)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "content")


def test_the_cheap_check_sees_what_needs_no_reading() -> None:
    """Text that is no UTF-8 and a PDF without its header are refused at the door."""
    for kind, content in (("text/plain", b"\xe9"), ("application/pdf", b"hello")):
        with pytest.raises(MeshError):
            check(MediaType(kind), content)
    check(MediaType("application/pdf"), pdf("x"))


def test_plain_text_is_kept_as_it_is() -> None:
    """But for a byte order mark, line ends and zero bytes."""
    assert read("text/plain", "\ufeffa\r\nb\rc\0 é".encode()) == "a\nb\nc é"
    assert read("text/plain", "wide é".encode("utf-16")) == "wide é"


def test_markdown_loses_its_markup() -> None:
    """Headings, emphasis, links, images, code and comments become their text."""
    content = (
        b"---\ntitle: x\n---\n# The *Tower*\n\nIt is **very tall** and `solid`. "
        b"<!-- not\nthis -->\n"
        b'See [the plan](plan.md "t") or ![a view](v.png).\n\n'
        b"```python\nsnake_case = 2 * 3 * 4\n```\n"
        b"> quoted\n\n- item\n"
    )
    text = read("text/markdown", content)
    assert "The Tower\n" in text
    assert "It is very tall and solid." in text
    assert "See the plan or a view." in text
    assert "snake_case = 2 * 3 * 4" in text
    assert "\nquoted\n" in text
    assert "- item" in text
    assert not any(
        mark in text for mark in ("title: x", "```", "not", "this", "plan.md", "**", "#")
    )


def test_html_is_what_a_reader_sees() -> None:
    """Scripts, styles and comments are gone; blocks are paragraphs; rows are lines."""
    content = (
        b"<html><head><title>Tower</title><style>p{color:red}</style><script>var hidden</script>"
        b"</head><body><!-- unseen --><h1>The Tower</h1><p>It is <b>very</b>\n tall &amp; old.</p>"
        b"<table><tr><td>Height</td><td>300 m</td></tr><tr><td>Built</td></tr></table>"
        b"<pre>a  b\n c</pre><noscript>enable</noscript></body></html>"
    )
    assert read("text/html", content) == (
        "Tower\n\nThe Tower\n\nIt is very tall & old.\n\nHeight  300 m\n\nBuilt\n\na  b\nc"
    )


def test_html_says_its_own_encoding() -> None:
    """A declared character set is believed."""
    content = '<meta charset="iso-8859-1"><p>café</p>'.encode("iso-8859-1")
    assert read("text/html", content) == "café"


def test_pdf_pages_are_paragraphs() -> None:
    """Pages follow each other with a blank line between."""
    text = read("application/pdf", pdf("First page here.", "Second page here."))
    assert text.split("\n\n") == ["First page here.", "Second page here."]


@pytest.mark.parametrize(("password", "readable"), [("", True), ("secret", False)])
def test_an_encrypted_pdf_needs_no_password_or_is_refused(password: str, readable: bool) -> None:
    """One that any reader opens is read; the error for others says what is wrong."""
    writer = PdfWriter(PdfReader(io.BytesIO(pdf("Locked words."))))
    writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
    locked = io.BytesIO()
    writer.write(locked)
    if readable:
        assert read("application/pdf", locked.getvalue()) == "Locked words."
    else:
        with pytest.raises(MeshError, match="password"):
            read("application/pdf", locked.getvalue())


@pytest.mark.parametrize("piece", ["<!--", "[a](", "**a", "`", "_a", "# #", "![[", "- \t", "\n#"])
def test_markdown_takes_linear_time(piece: str) -> None:
    """Text made to upset the patterns is read in a moment."""
    read("text/markdown", b"x" + piece.encode() * 20_000)
