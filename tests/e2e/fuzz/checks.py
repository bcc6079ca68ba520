"""What is wrong with a reply: the rules that hold for every case, and those of a refusal."""

import json
import re
from collections.abc import Iterator
from typing import NoReturn

from tests.e2e.fuzz import answers
from tests.e2e.fuzz.case import Case, Framing, Json
from tests.e2e.fuzz.client import LIMIT_S, End, Reply

# no generated text holds any of these, so a reply that does speaks of the gateway's inside
INTERNAL = re.compile(
    r"Traceback|File \"|site-packages|/work/|/tmp/|/usr/|\.py\b|0x[0-9a-f]{6}|<class|object at |"
    r"\b(?:services|mesh|google|asyncio|aiohttp|grpc|nats|redis|pydantic|pypdf|sqlite3|torch)\.\w|"
    r"\w(?:Error|Exception)\b|\bNoneType\b|\bAioRpc|StatusCode"
)
REFUSAL_TEXTS = ("message", "type")
REFUSAL_OPTIONS = ("param", "code")
BUSY = (429, 503)
EXPIRED = 504


def faults(case: Case, reply: Reply) -> list[str]:
    """Return a line for each thing that is wrong."""
    wrong = list(_end(case, reply))
    if reply.end is End.DROPPED or not reply.status:
        return wrong
    if reply.status >= 400:
        return [*wrong, *_refusal_status(case, reply), *refusal(case, reply)]
    if not 200 <= reply.status < 300:
        return [*wrong, f"status {reply.status}"]
    if reply.end not in (End.HUNG, End.BROKEN, End.SILENT):
        wrong += answers.faults(case, reply)
    return wrong


def refusal(case: Case, reply: Reply) -> Iterator[str]:
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


def _end(case: Case, reply: Reply) -> Iterator[str]:
    if reply.end is End.SILENT and case.framing is Framing.SHORT and not reply.status:
        return
    if reply.end in (End.SILENT, End.HUNG, End.BROKEN, End.UNUSABLE):
        yield f"{reply.end.value} {reply.detail}".strip()
    elif reply.seconds > LIMIT_S:
        yield f"took {reply.seconds:.1f} s"


def _refusal_status(case: Case, reply: Reply) -> Iterator[str]:
    """Yield what is wrong with the status of an error."""
    if reply.status in BUSY:
        if not reply.headers.get("retry-after"):
            yield f"{reply.status} without Retry-After"
    elif reply.status >= 500 and not (reply.status == EXPIRED and case.expires):
        yield f"status {reply.status}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} in JSON")
