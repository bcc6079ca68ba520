"""Bodies as JSON by the letter."""

from typing import Any

import pytest

from services.gateway.http.body import INLINE_JSON_BYTES, decoded


@pytest.mark.parametrize("raw", [b"NaN", b"[Infinity]", b'{"a": -Infinity}'])
def test_constants_of_no_standard_are_refused(raw: bytes) -> None:
    """Python would read them; RFC 8259 has none."""
    with pytest.raises(ValueError):
        decoded(raw)


def test_overflow_is_left_to_validation() -> None:
    """A number too large for a float is infinite, which no field allows."""
    assert decoded(b"1e999") == float("inf")


async def test_large_bodies_are_read_too(stack: Any) -> None:
    """A body that is decoded in a thread means the same."""
    body = {**stack.body, "metadata": {"note": "x" * INLINE_JSON_BYTES}}
    status, _, _ = await stack.post("/v1/chat/completions", body)
    assert status == 200
