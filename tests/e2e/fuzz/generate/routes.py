"""Requests without a body: odd ids, unknown paths, methods that a path does not take."""

from random import Random
from urllib.parse import quote

from tests.e2e.fuzz.case import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    ENCODER,
    MODEL,
    Case,
    common_headers,
    head,
)
from tests.e2e.fuzz.generate.bodies import post
from tests.e2e.fuzz.generate.documents import ODD_ESCAPES
from tests.e2e.fuzz.generate.values import text

KNOWN = (
    CHAT, COMPLETIONS, EMBEDDINGS, "/v1/models", f"/v1/models/{MODEL}", f"/v1/models/{ENCODER}",
    "/v1/collections", "/v1/collections/fuzz-a/documents", "/livez", "/readyz", "/metrics",
)  # fmt: skip
READABLE = (
    "/v1/models", f"/v1/models/{MODEL}", f"/v1/models/{ENCODER}", "/v1/collections", "/livez",
    "/readyz", "/metrics",
)  # fmt: skip
METHODS = (
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get", "BREW",
    "QUERY", "X" * 300,
)  # fmt: skip
UNKNOWN = (
    "/", "//", "/v1", "/v1/", "/v2/models", "/v1/models/", "/v1//models", "/V1/MODELS",
    "/v1/engines", "/v1/chat", "/v1/chat/completions/", "/v1/chat/completions/x", "/v1/files",
    "/v1/responses", "/v1/../v1/models", "/v1/./models", "/v1/models;x=1", "/favicon.ico",
    "/" + "a" * 4000, "/" + "a/" * 900, "/v1/models?x=%ff", "/v1/models?" + "a=b&" * 900,
    "/v1/models#x", "/%2e%2e/%2e%2e/etc/passwd",
)  # fmt: skip
# as HTTP allows, or not
TARGETS = (
    "*",
    "http://127.0.0.1/v1/models",
    "http://other.test/v1/models",
    "v1/models",
    "?",
    "http://",
    "//x:y",
)


def reading(rng: Random) -> Case:
    """Return a GET of what is there, or of an id that is odd."""
    if rng.random() < 0.4:
        return bare("reading", "GET", rng.choice(READABLE))
    name = quote(text(rng)[:2000].encode("utf-8", "surrogatepass"), safe=rng.choice(("", "/")))
    if rng.random() < 0.3:
        name += rng.choice(ODD_ESCAPES)
    place = rng.choice(("/v1/models/", "/v1/ingestions/", "/v1/collections/"))
    return bare("reading", "GET", place + name)


def unknown(rng: Random) -> Case:
    """Return a path that is none, or a method that its path may not take."""
    dice = rng.random()
    if dice < 0.45:
        return bare(
            "unknown path", rng.choice(("GET", "GET", "POST", "DELETE")), rng.choice(UNKNOWN)
        )
    if dice < 0.9:
        return bare("unknown method", rng.choice(METHODS), rng.choice(KNOWN))
    if dice < 0.95:
        return post("unknown path", rng.choice(UNKNOWN), b"{}")
    return bare("unknown path", rng.choice(("GET", "OPTIONS")), rng.choice(TARGETS))


def bare(kind: str, method: str, target: str) -> Case:
    """Return a request with no body; a method that may have one says that it has none."""
    length = 0 if method in ("POST", "PUT", "PATCH") else None
    return Case(kind, method, target, (head(method, target, common_headers(length)),))
