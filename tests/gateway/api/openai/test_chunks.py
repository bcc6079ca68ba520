"""Chunks of a stream are valid JSON in OpenAI's shape, whatever their text."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.api.openai import chat, completions
from services.gateway.api.openai.chunks import Chunks

IDENTITY: dict[str, Any] = {
    "id": 'i"d',
    "created": 7,
    "model": "mödel",
    "system_fingerprint": "fp_1",
}


def parsed(data: bytes) -> dict[str, Any]:
    assert data.startswith(b"data: ") and data.endswith(b"\n\n")
    assert data.count(b"\n") == 2
    value: dict[str, Any] = json.loads(data[6:])
    return value


@settings(deadline=None)
@given(st.text(st.characters()), st.integers(0, 127))
def test_text_survives(text: str, index: int) -> None:
    """Any text comes back from both endpoints as it went in, on one line."""
    chunk = parsed(Chunks(chat.FORM, **IDENTITY).text(index, text))
    assert chunk["choices"] == [
        {"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    ]
    plain = parsed(Chunks(completions.FORM, **IDENTITY).text(index, text))
    assert plain["choices"][0]["text"] == text


def test_identity_is_on_every_chunk() -> None:
    """Id, time, model, fingerprint and kind stand on all chunks; usage is null until the last."""
    chunks = Chunks(chat.FORM, **IDENTITY, with_usage=True)
    usage = {"total_tokens": 3}
    made = [chunks.first(0), chunks.text(0, "a"), chunks.finish(0, "stop"), chunks.usage(usage)]
    read = [parsed(data) for data in made]
    for chunk in read:
        assert {key: chunk[key] for key in IDENTITY} == IDENTITY
        assert chunk["object"] == "chat.completion.chunk"
    assert [chunk["usage"] for chunk in read] == [None, None, None, usage]
    assert read[-1]["choices"] == []


def test_chat_begins_with_the_role_and_ends_with_the_reason() -> None:
    """The first delta names the assistant, the last is empty and has the reason."""
    chunks = Chunks(chat.FORM, **IDENTITY)
    first, last = parsed(chunks.first(1)), parsed(chunks.finish(1, "length"))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "length"
    assert "usage" not in first and "citations" not in first


def test_citations_stand_first_and_last() -> None:
    """Citations are on the opening and the finishing chunk only; a text stream opens for them."""
    for form in (chat.FORM, completions.FORM):
        chunks = Chunks(form, **IDENTITY, citations=[{"id": "a"}])
        assert parsed(chunks.first(0))["citations"] == [{"id": "a"}]
        assert parsed(chunks.finish(0, "stop"))["citations"] == [{"id": "a"}]
        assert "citations" not in parsed(chunks.text(0, "x"))


def test_text_stream_without_news_opens_with_nothing() -> None:
    """A text completion has no role to announce."""
    assert Chunks(completions.FORM, **IDENTITY).first(0) == b""
