"""JSON bodies: valid ones, valid ones with a field or two changed, and any JSON at all."""

import copy
from collections.abc import Callable, Mapping
from random import Random

from tests.e2e.fuzz.case import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    ENCODER,
    JSON_TYPE,
    MODEL,
    Case,
    Headers,
    Json,
    common_headers,
    head,
)
from tests.e2e.fuzz.generate import fields
from tests.e2e.fuzz.generate.fields import Field
from tests.e2e.fuzz.generate.values import deep, encode, scalar, some, text, value

OPTIONAL: Mapping[str, Mapping[str, Field]] = {
    CHAT: {**fields.SAMPLING, **fields.CHAT_ONLY},
    COMPLETIONS: {**fields.SAMPLING, **fields.COMPLETION_ONLY},
    EMBEDDINGS: fields.EMBEDDING_ONLY,
}
ODD_MODELS: tuple[Json, ...] = (
    "",
    "nobody",
    ENCODER,
    MODEL.upper(),
    MODEL + " ",
    None,
    1,
    [],
    "\ud800",
    "a/../b",
    "\x00",
)
# an answer with no limit of its own runs to the context's end
SHORT_ANSWER = {"max_tokens": 4}
LARGEST_DROP = 3000


def valid(rng: Random, path: str) -> dict[str, Json]:
    """Return a request that the route accepts, with up to two optional fields."""
    body: dict[str, Json]
    if path == EMBEDDINGS:
        return {"model": ENCODER, "input": copy.deepcopy(rng.choice(fields.EMBEDDED.good))}
    if path == CHAT:
        body = {"model": MODEL, "messages": _messages(rng), **SHORT_ANSWER}
    else:
        body = {"model": MODEL, "prompt": copy.deepcopy(rng.choice(fields.PROMPTS.good))}
        body |= SHORT_ANSWER
    chosen = rng.sample(("temperature", "seed", "stop", "top_p", "user"), rng.randint(0, 2))
    return body | {name: rng.choice(fields.SAMPLING[name].good) for name in chosen}


def near_valid(rng: Random) -> Case:
    """Return a valid request in which one or two fields were changed."""
    path = rng.choices((CHAT, COMPLETIONS, EMBEDDINGS), (5, 4, 1))[0]
    body = valid(rng, path)
    for _ in range(rng.choice((1, 1, 2))):
        _change(rng, path, body)
    return request("near valid", rng, path, body, near_valid=True)


def stream(rng: Random) -> Case:
    """Return a request for a stream, which is read to its end or dropped midway."""
    path = rng.choice((CHAT, COMPLETIONS))
    body = valid(rng, path) | {"stream": True, "max_tokens": rng.choice((1, 8, 64))}
    for name in rng.sample(("ignore_eos", "n", "stream_options", "logprobs", "echo"), 2):
        if name in OPTIONAL[path]:
            body[name] = rng.choice(OPTIONAL[path][name].good)
    dropped_after = rng.randint(0, LARGEST_DROP) if rng.random() < 0.5 else None
    return request("stream", rng, path, body, dropped_after=dropped_after)


def any_json(rng: Random) -> Case:
    """Return a body whose types fit nowhere, or which is hardly JSON."""
    path = rng.choice((CHAT, COMPLETIONS, EMBEDDINGS))
    if rng.random() < 0.5:
        names = ["model", "messages", "prompt", "input", *OPTIONAL[path]]
        body: Json = {name: value(rng) for name in some(rng, names, 4)}
        if rng.random() < 0.7:
            body["model"] = ENCODER if path == EMBEDDINGS else MODEL
    else:
        body = value(rng)
    return request("any JSON", rng, path, body)


def no_json(rng: Random) -> Case:
    """Return a body that is broken, of another encoding, or only nearly JSON."""
    path = rng.choice((CHAT, COMPLETIONS, EMBEDDINGS))
    whole = encode(valid(rng, path), rng)
    spoil: tuple[Callable[[], bytes], ...] = (
        lambda: b"",
        lambda: whole[: rng.randrange(len(whole))],
        lambda: whole + text(rng).encode("utf-8", "surrogatepass"),
        lambda: b"\xef\xbb\xbf" + whole,
        lambda: whole.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-7"))),
        lambda: rng.randbytes(rng.randint(1, 300)),
        lambda: _flipped(rng, whole),
        lambda: whole.replace(b"{", b'{"model": 1, "max_tokens": "x", ', 1),
        lambda: whole.replace(b":", b"=", 1),
        lambda: b" " * rng.choice((1000, 100_000)) + whole,
        lambda: encode(deep(rng), rng),
        lambda: b'{"model": "' + b"x" * 9_000_000 + b'"}' if rng.random() < 0.2 else b"\x00",
    )
    return post("no JSON", path, rng.choice(spoil)())


def request(kind: str, rng: Random, path: str, body: Json, **known: Json) -> Case:
    """Return the case that sends this body."""
    kept = body if isinstance(body, dict) else None
    return post(kind, path, encode(body, rng), body=kept, **known)


def post(
    kind: str, target: str, payload: bytes, headers: Headers = (JSON_TYPE,), **known: Json
) -> Case:
    """Return the case that posts these bytes."""
    start = head("POST", target, (*common_headers(len(payload)), *headers))
    return Case(kind, "POST", target, (start, payload), has_body=True, **known)


def _messages(rng: Random) -> list[Json]:
    turns = [{"role": "user", "content": rng.choice(fields.CONTENTS.good)}]
    if rng.random() < 0.3:
        turns.insert(0, {"role": "system", "content": "Answer briefly."})
    if rng.random() < 0.2:
        turns = [*turns, {"role": "assistant", "content": "Yes."}, turns[-1]]
    return copy.deepcopy(turns)


def _change(rng: Random, path: str, body: dict[str, Json]) -> None:
    """Set, spoil or remove one field."""
    dice = rng.random()
    if dice < 0.7:
        name, field = rng.choice(list(OPTIONAL[path].items()))
        odd = field.odd if not field.good or rng.random() < 0.4 else field.good
        body[name] = copy.deepcopy(rng.choice(odd))
    elif dice < 0.88:
        _change_required(rng, path, body)
    elif dice < 0.97:
        body[rng.choice(list(body))] = value(rng, 2)
    else:
        del body[rng.choice(list(body))]


def _change_required(rng: Random, path: str, body: dict[str, Json]) -> None:
    if rng.random() < 0.15:
        body["model"] = rng.choice(ODD_MODELS)
    elif path == EMBEDDINGS:
        body["input"] = copy.deepcopy(rng.choice(fields.EMBEDDED.odd))
    elif path == COMPLETIONS:
        body["prompt"] = copy.deepcopy(rng.choice(fields.PROMPTS.odd))
    elif "messages" in body:
        _change_messages(rng, body)


def _change_messages(rng: Random, body: dict[str, Json]) -> None:
    messages = body["messages"]
    if not isinstance(messages, list) or not messages or not isinstance(messages[0], dict):
        return
    changed = rng.choice(messages)
    dice = rng.random()
    if dice < 0.55:
        changed["content"] = copy.deepcopy(rng.choice(fields.CONTENTS.odd))
    elif dice < 0.65:
        changed["content"] = text(rng)
    elif dice < 0.8:
        changed["role"] = rng.choice(fields.ROLES.odd)
    elif dice < 0.9:
        changed[rng.choice(("name", "tool_calls", "refusal", "x", ""))] = scalar(rng)
    else:
        body["messages"] = messages * rng.choice((0, 2, 200))


def _flipped(rng: Random, whole: bytes) -> bytes:
    """Return these bytes with a few replaced."""
    spoiled = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
    return bytes(spoiled)
