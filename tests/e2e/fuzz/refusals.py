"""What keeps a refusal from OpenAI's shape, and JSON from being read by any parser."""

import json
import re
from collections.abc import Iterator
from typing import NoReturn

from tests.e2e.fuzz.case import Case, Json
from tests.e2e.fuzz.client import Reply

# no generated text holds any of these, so a reply that does speaks of the gateway's inside
INTERNAL = re.compile(
    r"Traceback|File \"|site-packages|/work/|/tmp/|/usr/|\.py\b|0x[0-9a-f]{6}|<class|object at |"
    r"\b(?:services|mesh|google|asyncio|aiohttp|grpc|nats|redis|pydantic|pypdf|sqlite3|torch)\.\w|"
    r"\w(?:Error|Exception)\b|\bNoneType\b|\bAioRpc|StatusCode"
)
REFUSAL_TEXTS = ("message", "type")
REFUSAL_OPTIONS = ("param", "code")


def faults(case: Case, reply: Reply) -> Iterator[str]:
    """Yield what keeps a reply from being an error in OpenAI's shape."""
    if not reply.headers.get("x-request-id"):
        yield "no x-request-id"
    if not reply.headers.get("content-type", "").startswith("application/json"):
        yield f"content type {reply.headers.get('content-type')!r}"
    if case.method == "HEAD":
        return
    try:
        body = strict_json(reply.body)
    except ValueError as error:
        yield f"the error is no JSON: {error}"
        return
    yield from error_object(body)


def error_object(body: Json) -> Iterator[str]:
    """Yield what is wrong with `{"error": {"message", "type", "param", "code"}}`."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        yield "no error object"
        return
    for name in REFUSAL_TEXTS:
        if not isinstance(error.get(name), str) or not error[name].strip():
            yield f"error.{name} is {error.get(name)!r}"
    for name in REFUSAL_OPTIONS:
        if name not in error or not isinstance(error[name], str | None):
            yield f"error.{name} is {error.get(name, 'absent')!r}"
    if inside := INTERNAL.search(str(error.get("message"))):
        yield f"the message speaks of the inside: {inside[0]!r}"


def strict_json(payload: bytes) -> Json:
    """Return JSON that any parser takes: UTF-8, no NaN, no half of a surrogate pair.

    Raises ValueError.
    """
    value = json.loads(payload.decode("utf-8"), parse_constant=_no_constant)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} in JSON")
