"""Character encodings of documents: told by the bytes or their sender, never guessed.

The order is that of the HTML standard (13.2.3.2): a byte order mark, what is declared, what an HTML
document says of itself; then UTF-8, by the letter.
"""

import codecs
import re

import webencodings
from selectolax.lexbor import LexborHTMLParser

from mesh.errors import MeshError, invalid
from services.retriever.extraction.media_type import HTML, MediaType

# UTF-32 little endian begins as UTF-16 does
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# the web's encodings that Python knows by a wider one
_PYTHON_CODECS = {"shift_jis": "cp932", "euc-kr": "cp949", "gbk": "gb18030", "big5": "big5hkscs"}
# bytes that Python's cp932 reads as private characters and the web's does not read
_CP932_UNDEFINED = re.compile("[\uf8f0-\uf8f3]")
# more than the 1,024 bytes of the prescan: a browser reads again when it meets a later one
_HEAD_BYTES = 64 * 1024
_XML_DECLARATION = re.compile(
    rb"<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']"
)
_META_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s;\"']+)", re.IGNORECASE)


def decode(media_type: MediaType, content: bytes) -> str:
    """Return the text of a document without its byte order mark.

    Raises INVALID_ARGUMENT: for `media_type` where its charset is unknown, for `content` where a
    byte is none of the encoding.
    """
    for mark, codec in _MARKS:
        if content.startswith(mark):
            return _decoded(content[len(mark) :], codec, codec, len(mark))
    if media_type.charset:
        encoding = webencodings.lookup(media_type.charset)
        if encoding is None:
            raise invalid("media_type", f"charset {media_type.charset!r} is not known.")
    else:
        encoding = _own_encoding(content) if media_type.kind == HTML else None
    if encoding is None:
        return _decoded(content, "utf-8", "utf-8")
    codec = _PYTHON_CODECS.get(encoding.name, encoding.codec_info.name)
    return _decoded(content, codec, encoding.name)


def _decoded(content: bytes, codec: str, name: str, skipped: int = 0) -> str:
    try:
        text = content.decode(codec)
    except UnicodeDecodeError as error:
        raise _unreadable(name.upper(), error.start + skipped) from None
    undefined = _CP932_UNDEFINED.search(text) if codec == "cp932" else None
    if undefined is not None:
        raise _unreadable(name.upper(), len(text[: undefined.start()].encode(codec)))
    return text


def _unreadable(name: str, place: int) -> MeshError:
    return invalid(
        "content",
        f"content is not text in {name}: byte {place} cannot be read. Another encoding is named by "
        "the charset of the media type.",
    )


def _own_encoding(content: bytes) -> "webencodings.Encoding | None":
    """Return what an HTML document says of its encoding; None where it says nothing known."""
    head = content[:_HEAD_BYTES]
    declared = _XML_DECLARATION.match(head)
    labels = [declared[1].decode("ascii")] if declared else []
    for meta in LexborHTMLParser(head.decode("latin-1")).css("meta"):
        attributes = {name.lower(): value or "" for name, value in meta.attributes.items()}
        if "charset" in attributes:
            labels.append(attributes["charset"])
        elif attributes.get("http-equiv", "").lower() == "content-type":
            labels += _META_CHARSET.findall(attributes.get("content", ""))[:1]
    for label in labels:
        encoding = webencodings.lookup(label)
        if encoding is not None:
            # it was read as ASCII, so it cannot be UTF-16
            is_wide = encoding.name.startswith("utf-16")
            return webencodings.UTF8 if is_wide else encoding
    return None
