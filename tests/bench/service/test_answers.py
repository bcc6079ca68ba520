"""What the bytes of an exchange say, however they were cut into pieces."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.service.answers import read
from bench.service.client import Exchange

HEAD = (
    b"HTTP/1.1 200 OK\r\nx-infermesh-cache: miss\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: text/event-stream\r\n\r\n"
)
USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 16},
}


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def text(content: str) -> bytes:
    return event(choices=[{"delta": {"content": content}}])


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKS = [
    chunk(event(choices=[{"delta": {"role": "assistant", "content": ""}}]) + text("one")),
    chunk(b": keep-alive\n\n"),
    chunk(text(" two")),
    chunk(event(choices=[], usage=USAGE) + b"data: [DONE]\n\n"),
    b"0\r\n\r\n",
]


def exchange(pieces: list[bytes]) -> Exchange:
    """Return an exchange that was due at 10 s; its pieces came at 11, 12 ... s."""
    moments = [11.0 + index for index in range(len(pieces))]
    return Exchange(10.0, 10.25, pieces, moments)


def test_text_is_timed_from_when_the_request_was_due() -> None:
    """A late start counts, the role alone is no text, and tokens are those of the usage."""
    answer = read(exchange([HEAD, *CHUNKS]))
    assert answer.texts_s == (2.0, 4.0)
    assert (answer.late_s, answer.first_token_s, answer.end_s) == (0.25, 2.0, 6.0)
    assert answer.per_token_s == 0.5
    assert (answer.num_prompt_tokens, answer.num_cached_tokens, answer.num_tokens) == (40, 16, 5)
    assert not answer.fault and not answer.is_cache_hit


@given(cuts=st.sets(st.integers(1, len(HEAD + b"".join(CHUNKS)) - 1)))
def test_pieces_may_be_cut_anywhere(cuts: set[int]) -> None:
    """Text came with the piece that has the last byte of its chunk."""
    whole = HEAD + b"".join(CHUNKS)
    bounds = [0, *sorted(cuts), len(whole)]
    pieces = [whole[bounds[i] : bounds[i + 1]] for i in range(len(bounds) - 1)]
    answer = read(exchange(pieces))
    ends = [len(HEAD + b"".join(CHUNKS[:count])) - 2 for count in (1, 3)]
    expected = [1.0 + sum(cut < end for cut in cuts) for end in ends]
    assert list(answer.texts_s) == expected
    assert answer.num_tokens == 5 and not answer.fault


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ([b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"], "HTTP 429"),
        ([HEAD, CHUNKS[0], chunk(event(error={"code": "unavailable"}))], "event unavailable"),
        ([HEAD, *CHUNKS[:3]], "no end"),
        ([], "HTTP "),
    ],
)
def test_what_is_no_whole_answer_is_a_fault(pieces: list[bytes], fault: str) -> None:
    """Its first token comes never."""
    answer = read(exchange(pieces))
    assert answer.fault == fault
    assert answer.first_token_s == float("inf") and answer.per_token_s is None
