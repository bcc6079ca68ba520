"""The checks pass proper replies and name what is wrong with others."""

import json
from typing import Any

import pytest

from tests.e2e.fuzz.case import CHAT, COMPLETIONS, EMBEDDINGS, Case, Framing
from tests.e2e.fuzz.checks import faults
from tests.e2e.fuzz.client import End, Reply

USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a"}}
ANSWER = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE],
    "usage": USAGE,
}  # fmt: skip
TEXT = {"index": 0, "finish_reason": "length", "text": "a", "logprobs": None}
COMPLETION = {**ANSWER, "object": "text_completion", "choices": [TEXT]}
DELTA = {"index": 0, "finish_reason": None, "delta": {"content": "a"}}
CHUNK = {"object": "chat.completion.chunk", "choices": [DELTA]}
LAST = {"object": "chat.completion.chunk", "choices": [{**DELTA, "finish_reason": "stop"}]}
VECTOR = {"object": "embedding", "index": 0, "embedding": [0.0] * 384}
EMBEDDED = {
    "object": "list", "model": "m", "data": [VECTOR],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}  # fmt: skip
ERROR = {"message": "max_tokens must be at least 1.", "type": "x", "param": None, "code": None}
HEADERS = {"x-request-id": "1", "content-type": "application/json; charset=utf-8"}
EVENTS = {**HEADERS, "content-type": "text/event-stream; charset=utf-8"}


def reply(status: int, body: Any, headers: dict[str, str] = HEADERS, end: End = End.KEPT) -> Reply:
    """A reply whose body is encoded unless it is bytes."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, dict(headers), payload, 0.1, end)


def events(*chunks: Any, end: bytes = b"data: [DONE]\n\n") -> Reply:
    """A stream of these chunks."""
    lines = b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks)
    return reply(200, lines + end, EVENTS)


def case(path: str = CHAT, **known: Any) -> Case:
    """A POST to this path."""
    return Case(known.pop("kind", "near valid"), "POST", path, (), **known)


STREAMED = case(body={"stream": True})


@pytest.mark.parametrize(
    ("tried", "good"),
    [
        (case(), reply(200, ANSWER)),
        (case(COMPLETIONS), reply(200, COMPLETION)),
        (case(EMBEDDINGS), reply(200, EMBEDDED)),
        (STREAMED, events(CHUNK, LAST)),
        (STREAMED, events(CHUNK, {"error": {**ERROR, "type": "invalid_request_error"}}, end=b"")),
        (case(), reply(400, {"error": ERROR})),
        (case(), reply(503, {"error": ERROR}, {**HEADERS, "retry-after": "1"})),
        (case(expires=True), reply(504, {"error": ERROR})),
        (case(framing=Framing.SHORT), Reply(end=End.SILENT)),
        (STREAMED, Reply(200, {}, b"data: {", end=End.DROPPED)),
    ],
)
def test_proper_replies_pass(tried: Case, good: Reply) -> None:
    """An answer, a stream, a refusal, a full queue, and the end of a request cut short."""
    assert faults(tried, good) == []


def refused(**change: Any) -> Reply:
    """A refusal with something else in its error."""
    return reply(400, {"error": {**ERROR, **change}})


@pytest.mark.parametrize(
    ("tried", "bad", "named"),
    [
        (case(), reply(500, {"error": ERROR}), "status 500"),
        (case(), reply(504, {"error": ERROR}), "status 504"),
        (case(), reply(503, {"error": ERROR}), "Retry-After"),
        (case(), reply(302, b""), "status 302"),
        (case(), reply(400, b"Bad"), "no JSON"),
        (case(), reply(400, {"detail": "x"}), "no error object"),
        (case(), reply(400, {"error": {"message": "x", "type": "y", "code": None}}), "param"),
        (case(), refused(message=" "), "message"),
        (case(), refused(type=None), "type"),
        (case(), refused(code=7), "code"),
        (case(), refused(message='File "x", line 3'), "inside"),
        (case(), refused(message="services.gateway said no"), "inside"),
        (case(), refused(message="KeyError: 'n'"), "inside"),
        (case(), reply(400, {"error": ERROR}, {**HEADERS, "x-request-id": ""}), "x-request-id"),
        (case(), reply(400, {"error": ERROR}, EVENTS), "content type"),
        (case(), Reply(end=End.HUNG), "limit"),
        (case(), Reply(end=End.SILENT), "without a reply"),
        (case(framing=Framing.SHORT), Reply(200, HEADERS, end=End.SILENT), "without a reply"),
        (case(), reply(200, ANSWER, end=End.UNUSABLE), "connection"),
        (case(), reply(200, {**ANSWER, "object": "x"}), "object"),
        (case(), reply(200, {**ANSWER, "choices": []}), "no choices"),
        (case(), reply(200, {**ANSWER, "choices": [{**CHOICE, "index": 1}]}), "indexes"),
        (case(), reply(200, {**ANSWER, "choices": [{**CHOICE, "finish_reason": "x"}]}), "finish"),
        (case(body={"n": 2}), reply(200, ANSWER), "n = 2"),
        (case(COMPLETIONS, body={"prompt": ["a", "b"]}), reply(200, COMPLETION), "2 prompts"),
        (case(), reply(200, {**ANSWER, "usage": {**USAGE, "total_tokens": 9}}), "add up"),
        (case(), reply(200, {**ANSWER, "usage": None}), "usage"),
        (case(), reply(200, b'{"a": NaN}'), "NaN"),
        (case(), reply(200, b'{"a": "\\ud800"}'), "no JSON"),
        (case(body={"stream": True}), reply(200, ANSWER), "no stream"),
        (case(EMBEDDINGS), reply(200, {**EMBEDDED, "data": []}), "vector"),
        (case("/v1/x", kind="document"), reply(202, {"status": "queued"}), "ingestion_id"),
        (STREAMED, events(CHUNK, LAST, end=b""), "[DONE]"),
        (STREAMED, events(CHUNK), "finished"),
        (STREAMED, events(CHUNK, LAST, LAST), "finished"),
        (STREAMED, events({"error": {**ERROR, "type": "server_error"}}), "broke"),
        (case(body={}), events(CHUNK, LAST), "nobody asked"),
    ],
)
def test_each_fault_is_named(tried: Case, bad: Reply, named: str) -> None:
    """A line says what is wrong."""
    assert any(named in fault for fault in faults(tried, bad)), faults(tried, bad)
