"""Names: what people write is taken, what deceives or steers is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.names import is_name

TAKEN = ["a.txt", "a\u202fb", "a\u00a0b", "\u5168\u89d2\u3000\u540d", "\u0646\u200c\u0647"]
TAKEN += [
    "\U0001f468\u200d\U0001f469",
    "e\u0301",
    "a\u00adb",
    "\ue000",
    "\U0003ffff1",
    "a b",
    "\u2060x",
]
REFUSED = ["", " ", "\u3000\u00a0", "a\nb", "a\x00", "\x7f", "a\x85b", "a\u2028b", "a\u2029b"]
REFUSED += ["a\u202eb", "\u202ax", "x\u2066y\u2069", "\ud800", "\x1b[31m"]


@pytest.mark.parametrize("name", TAKEN, ids=ascii)
def test_what_people_write_is_a_name(name: str) -> None:
    """Spaces of all kinds, joiners and private characters."""
    assert is_name(name)


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_what_steers_or_deceives_is_no_name(name: str) -> None:
    """Control characters, line ends, directions, half characters and blanks alone."""
    assert not is_name(name)


@given(st.text(min_size=1))
def test_every_printable_text_is_a_name(text: str) -> None:
    """No text that Python calls printable is refused, unless it is blank."""
    if text.isprintable() and text.strip():
        assert is_name(text)
