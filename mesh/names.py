"""Names that people give to documents: which characters one may hold. Knows no service."""

import unicodedata

MAX_NAME_CHARACTERS = 512
# what steers a terminal or a log, ends a line, or is no character: Cc, Zl, Zp, Cs
_REFUSED_CATEGORIES = frozenset({"Cc", "Zl", "Zp", "Cs"})
# bidirectional embeddings, overrides and isolates (UAX 9): a name would read as another one
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_name(text: str) -> bool:
    """Return whether a person can read and tell apart such a name.

    Spaces of all kinds, joiners, and characters of a later Unicode are part of names; control
    characters, line ends and what turns the direction of text are not, nor are blanks alone.
    """
    if text.isascii() and text.isprintable():
        return not (text == "" or text.isspace())
    return bool(text.strip()) and not any(
        char in _BIDI or unicodedata.category(char) in _REFUSED_CATEGORIES for char in text
    )
