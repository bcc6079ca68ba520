"""The media type of a document: declared, or told by its name's suffix."""

from email.message import Message
from pathlib import PurePath
from typing import NamedTuple

from mesh.errors import invalid

PLAIN = "text/plain"
MARKDOWN = "text/markdown"
HTML = "text/html"
PDF = "application/pdf"
KINDS = (PDF, HTML, MARKDOWN, PLAIN)
_SUFFIXES = {
    ".txt": PLAIN,
    ".text": PLAIN,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".html": HTML,
    ".htm": HTML,
    ".pdf": PDF,
}


class MediaType(NamedTuple):
    """One of `KINDS`, and the label of the declared character encoding, or ""."""

    kind: str
    charset: str = ""

    @classmethod
    def of(cls, declared: str, source: str) -> "MediaType":
        """Return what a `Content-Type` says; the suffix tells what an empty one does not.

        Raises INVALID_ARGUMENT for `media_type`.
        """
        named = declared.split(";", 1)[0].strip().lower()
        suffix = PurePath(source).suffix.lower()
        kind = named or _SUFFIXES.get(suffix, "")
        if kind in KINDS:
            return cls(kind, _charset(declared))
        accepted = ", ".join(KINDS)
        if named:
            raise invalid("media_type", f"media_type {named!r} is not one of {accepted}.")
        raise invalid(
            "media_type",
            f"media_type is empty and the suffix {suffix!r} of source does not tell it; "
            f"give one of {accepted}.",
        )

    def __str__(self) -> str:
        return f'{self.kind}; charset="{self.charset}"' if self.charset else self.kind


def _charset(declared: str) -> str:
    """Return the first parameter `charset`, quoted or not."""
    parameters = declared.partition(";")[2].replace("\r", " ").replace("\n", " ")
    header = Message()
    header["Content-Type"] = f"text/plain;{parameters}"
    charset = header.get_param("charset", "")
    text = charset[2] if isinstance(charset, tuple) else str(charset)
    return text.replace('"', "").strip()
