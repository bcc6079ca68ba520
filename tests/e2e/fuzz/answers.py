"""What is wrong with an answer of status 2xx, route by route, and what a stream has to end with."""

from collections import Counter
from collections.abc import Iterator

from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ValidationError

from tests.e2e.fuzz import refusals
from tests.e2e.fuzz.case import CHAT, COMPLETIONS, EMBEDDINGS, Case, Json
from tests.e2e.fuzz.client import Reply

FINISH_REASONS = ("stop", "length")
OBJECTS = {CHAT: "chat.completion", COMPLETIONS: "text_completion", EMBEDDINGS: "list"}
CHUNKS = {CHAT: "chat.completion.chunk", COMPLETIONS: "text_completion"}
TYPES: dict[str, type[BaseModel]] = {CHAT: ChatCompletion, COMPLETIONS: Completion}
ENCODER_DIMENSIONS = 384
# base64 of as many float32
ENCODED_DIMENSIONS = ENCODER_DIMENSIONS * 4 // 3 * 4


def faults(case: Case, reply: Reply) -> Iterator[str]:
    """Yield a line for each thing that is wrong."""
    if not reply.headers.get("x-request-id"):
        yield "no x-request-id"
    if case.method == "HEAD" or case.path == "/metrics" or not reply.body:
        return
    if reply.headers.get("content-type", "").startswith("text/event-stream"):
        yield from stream(case, reply.body)
        return
    try:
        body = refusals.strict_json(reply.body)
    except ValueError as error:
        yield f"the answer is no JSON: {error}"
        return
    yield from _whole(case, body)


def stream(case: Case, payload: bytes) -> Iterator[str]:
    """Yield what is wrong with the events of a generation."""
    finished: Counter[int] = Counter()
    seen: set[int] = set()
    events = [line[6:] for line in payload.split(b"\n") if line.startswith(b"data: ")]
    ends = [event for event in events if event == b"[DONE]"]
    for event in events:
        if event == b"[DONE]":
            continue
        try:
            chunk = refusals.strict_json(event)
        except ValueError as error:
            yield f"an event is no JSON: {error}"
            return
        if "error" in chunk:
            yield from _error_event(case, chunk)
            return
        yield from _chunk(case.path, chunk)
        for choice in chunk.get("choices", ()):
            seen.add(choice["index"])
            finished[choice["index"]] += choice["finish_reason"] is not None
    if len(ends) != 1 or events[-1] != b"[DONE]":
        yield "the stream ends without [DONE]"
    if not seen or seen != set(range(len(seen))) or any(finished[i] != 1 for i in seen):
        yield f"choices {sorted(seen)} finished {dict(finished)}"
    yield from _num_choices(case, len(seen))
    if case.body is not None and case.body.get("stream", False) is False:
        yield "a stream that nobody asked for"


def _error_event(case: Case, chunk: Json) -> Iterator[str]:
    yield from refusals.error_object(chunk)
    kind = chunk["error"].get("type") if isinstance(chunk["error"], dict) else None
    if kind != "invalid_request_error" and not (kind == "timeout_error" and case.expires):
        yield f"the stream broke: {chunk}"


def _chunk(path: str, chunk: Json) -> Iterator[str]:
    if chunk.get("object") != CHUNKS.get(path):
        yield f"object {chunk.get('object')!r} in a stream of {path}"
    for choice in chunk.get("choices", ()):
        if choice.get("finish_reason") not in (None, *FINISH_REASONS):
            yield f"finish_reason {choice.get('finish_reason')!r}"
        text = choice["delta"].get("content", "") if path == CHAT else choice.get("text")
        if not isinstance(text, str):
            yield f"a delta's text is {text!r}"
    if chunk.get("usage"):
        yield from _usage(chunk["usage"])


def _whole(case: Case, body: Json) -> Iterator[str]:
    if case.path in TYPES and case.method == "POST":
        yield from _generated(case, body)
    elif case.path == EMBEDDINGS and case.method == "POST":
        yield from _embedded(body)
    elif case.path.startswith("/v1/models/") and case.method == "GET":
        yield from _of_type(Model, body)
    elif case.kind == "document" and case.method == "POST":
        names = ("ingestion_id", "document_id", "status")
        yield from (f"no {name}" for name in names if not body.get(name))
    elif not isinstance(body, dict):
        yield f"a {type(body).__name__} where an object should be"


def _generated(case: Case, body: Json) -> Iterator[str]:
    yield from _of_type(TYPES[case.path], body)
    if not isinstance(body, dict) or body.get("object") != OBJECTS[case.path]:
        yield "not the route's object"
        return
    choices = body.get("choices") or []
    if not choices or [choice.get("index") for choice in choices] != list(range(len(choices))):
        yield "no choices, or their indexes are not 0, 1, ..."
    for choice in choices:
        if choice.get("finish_reason") not in FINISH_REASONS:
            yield f"finish_reason {choice.get('finish_reason')!r}"
    yield from _num_choices(case, len(choices))
    yield from _usage(body.get("usage"))
    if case.body is not None and case.body.get("stream") is True:
        yield "no stream though one was asked for"


def _embedded(body: Json) -> Iterator[str]:
    vectors = [item.get("embedding") for item in body.get("data") or ()]
    encoded = [vector for vector in vectors if isinstance(vector, str)]
    if encoded and any(len(vector) != ENCODED_DIMENSIONS for vector in encoded):
        yield "a vector in base64 has another length"
    if not encoded:
        yield from _of_type(CreateEmbeddingResponse, body)
        if not vectors or any(len(vector) != ENCODER_DIMENSIONS for vector in vectors):
            yield "a vector has another length, or there is none"
    usage = body.get("usage") or {}
    if not 0 <= usage.get("prompt_tokens", -1) <= usage.get("total_tokens", -1):
        yield f"usage {usage}"


def _usage(usage: Json) -> Iterator[str]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    counts: list[Json] = [(usage or {}).get(name) for name in names]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        yield f"usage {usage}"
    elif counts[0] + counts[1] != counts[2]:
        yield f"usage does not add up: {usage}"


def _num_choices(case: Case, number: int) -> Iterator[str]:
    """Yield a line where there are not `n` choices for each prompt."""
    if case.body is None or not isinstance(case.body.get("n", 1), int):
        return
    prompt = case.body.get("prompt")
    is_list = case.path == COMPLETIONS and isinstance(prompt, list)
    num_prompts = len(prompt) if is_list and not isinstance(prompt[0], int) else 1
    if number != case.body.get("n", 1) * num_prompts:
        yield f"{number} choices for {num_prompts} prompts and n = {case.body.get('n', 1)}"


def _of_type(wanted: type[BaseModel], body: Json) -> Iterator[str]:
    try:
        wanted.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        yield f"not a {wanted.__name__}: {first['loc']} {first['msg']}"
