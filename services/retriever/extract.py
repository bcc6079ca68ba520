"""Bytes of a document to plain text: text, Markdown, HTML and PDF. Knows nothing of passages."""

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import PurePath

from bs4.dammit import UnicodeDammit
from pypdf import PdfReader

from mesh.errors import MeshError, invalid

_SUFFIXES = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
}
_PDF_HEADER_WITHIN_BYTES = 1024


def media_type(declared: str, source: str) -> str:
    """One of the four media types; parameters are ignored, an empty one is told by the suffix.

    Raises INVALID_ARGUMENT for `media_type`.
    """
    named = declared.split(";", 1)[0].strip().lower()
    suffix = PurePath(source).suffix.lower()
    known = named or _SUFFIXES.get(suffix, "")
    if known in _READERS:
        return known
    accepted = ", ".join(sorted(_READERS))
    if named:
        raise invalid("media_type", f"media_type {named!r} is not one of {accepted}.")
    raise invalid(
        "media_type",
        f"media_type is empty and the suffix {suffix!r} of source does not tell it; "
        f"give one of {accepted}.",
    )


def check(kind: str, content: bytes) -> None:
    """Return what can be told without reading all of it; raise INVALID_ARGUMENT for `content`."""
    if kind == "application/pdf" and b"%PDF-" not in content[:_PDF_HEADER_WITHIN_BYTES]:
        raise invalid("content", "content is not a PDF: its header is missing.")
    if kind in ("text/plain", "text/markdown"):
        _decode(content)


def extract(kind: str, content: bytes) -> str:
    """Return the text of a document of one of the four media types, lines ended by a line feed.

    Raises INVALID_ARGUMENT for `content` that cannot be read or holds no text.
    """
    text = _lines(_READERS[kind](content)).replace("\0", "")
    if not text.strip():
        raise invalid("content", "content holds no text.")
    return text


def _decode(content: bytes) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise invalid(
            "content", f"content is not text in UTF-8: byte {error.start} cannot be read."
        ) from None


# every pattern stays within a line and ends after a bounded look ahead: time is linear in length
_MARKUP: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE), ""),
    (re.compile(r"^[ \t]{0,3}(?:=+|-{3,}|\*{3,}|_{3,})[ \t]*$", re.MULTILINE), ""),
    (re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+([^\n]*)", re.MULTILINE), r"\1\n"),
    (re.compile(r"^[ \t]{0,3}>[ \t]?", re.MULTILINE), ""),
    (re.compile(r"!?\[([^\[\]\n]{0,500})\]\([^()\s]{0,2000}(?:[ \t]\"[^\"\n]{0,500}\")?\)"), r"\1"),
    (re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^\n*]{1,500})(?<=\S)\1(?![\w*])"), r"\2"),
    (re.compile(r"(?<![\w_])(_{1,3})(?=[^\s_])([^\n_]{1,500})(?<=\S)\1(?![\w_])"), r"\2"),
    (re.compile(r"(?<!`)`{1,3}([^`\n]{1,500})`{1,3}"), r"\1"),
)
_FRONT_MATTER = re.compile(r"\A---\n\w[^\n]*:.*?\n---\n", re.DOTALL)
_LINES_AT_ONCE = 500


def _markdown(content: bytes) -> str:
    text = _FRONT_MATTER.sub("", _lines(_decode(content)))
    lines = _without_comments(text).split("\n")
    # one call of `sub` keeps every other thread waiting: let it be short
    blocks = (
        "\n".join(lines[i : i + _LINES_AT_ONCE]) for i in range(0, len(lines), _LINES_AT_ONCE)
    )
    return "\n".join(map(_unmarked, blocks))


def _unmarked(text: str) -> str:
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


def _without_comments(text: str) -> str:
    first, *rest = text.split("<!--")
    return first + "".join(part.split("-->", 1)[-1] for part in rest)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _html(content: bytes) -> str:
    decoded = UnicodeDammit(content, is_html=True).unicode_markup
    if decoded is None:
        raise invalid("content", "content is in no character encoding that could be told.")
    reader = _TextOfHtml()
    reader.feed(decoded)
    reader.close()
    lines = [line.strip() for line in reader.text().split("\n")]
    return "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1])).strip()


class _TextOfHtml(HTMLParser):
    """Gathers what a reader of the page sees, in one pass that builds no tree."""

    _UNSEEN = frozenset({"script", "style", "template", "noscript", "svg"})
    _LINES = frozenset({"br", "li", "tr", "dt", "dd", "option"})
    _CELLS = frozenset({"td", "th"})
    # fmt: off
    _BLOCKS = frozenset({
        "address", "article", "aside", "blockquote", "body", "caption", "div", "dl", "fieldset",
        "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head",
        "header", "hr", "main", "nav", "ol", "p", "pre", "section", "table", "title", "ul",
    })
    # fmt: on

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._unseen = 0
        self._preformatted = 0

    def text(self) -> str:
        """All that was seen so far."""
        return "".join(self._parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unseen += tag in self._UNSEEN
        self._preformatted += tag == "pre"
        self._separate(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        self._unseen = max(0, self._unseen - (tag in self._UNSEEN))
        self._preformatted = max(0, self._preformatted - (tag == "pre"))
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._parts.append(data if self._preformatted else re.sub(r"\s+", " ", data))

    def _separate(self, tag: str) -> None:
        if tag in self._BLOCKS:
            self._parts.append("\n\n")
        elif tag in self._LINES:
            self._parts.append("\n")
        elif tag in self._CELLS:
            self._parts.append(" ")


def _pdf(content: bytes) -> str:
    # pypdf meets broken files with many kinds of errors, its own and Python's
    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise invalid("content", "content is an encrypted PDF that needs a password.")
        return "\n\n".join(page.extract_text() for page in reader.pages)
    except MeshError:
        raise
    except Exception as error:
        raise invalid("content", "content is a PDF that is broken and cannot be read.") from error


_READERS: dict[str, Callable[[bytes], str]] = {
    "text/plain": _decode,
    "text/markdown": _markdown,
    "text/html": _html,
    "application/pdf": _pdf,
}
