"""A document's bytes to its text, and what can be told of them at once."""

from mesh.errors import invalid
from services.retriever.extraction import charset
from services.retriever.extraction.html import text_of_html
from services.retriever.extraction.markdown import text_of_markdown
from services.retriever.extraction.media_type import HTML, MARKDOWN, PDF, MediaType
from services.retriever.extraction.pdf import HEADER, HEADER_WITHIN_BYTES, text_of_pdf


def check(media_type: MediaType, content: bytes) -> None:
    """Raise what `extract` would, as far as it shows without reading all."""
    if media_type.kind != PDF:
        charset.decode(media_type, content)
    elif HEADER not in content[:HEADER_WITHIN_BYTES]:
        raise invalid("content", "content is not a PDF: its header is missing.")


def extract(media_type: MediaType, content: bytes) -> str:
    """Return the text of a document, lines ended by a line feed.

    Raises INVALID_ARGUMENT for `content` that cannot be read or holds no text.
    """
    text = _lines(_text(media_type, content)).replace("\0", "")
    if not text.strip():
        raise invalid("content", "content holds no text.")
    return text


def _text(media_type: MediaType, content: bytes) -> str:
    if media_type.kind == PDF:
        return text_of_pdf(content)
    text = charset.decode(media_type, content)
    if media_type.kind == HTML:
        return text_of_html(text)
    return text_of_markdown(_lines(text)) if media_type.kind == MARKDOWN else text


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
