"""Valid requests under odd headers."""

from random import Random

from tests.e2e.fuzz.case import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    JSON_TYPE,
    KEY,
    Case,
    common_headers,
    head,
)
from tests.e2e.fuzz.generate.bodies import valid
from tests.e2e.fuzz.generate.values import PIECES, encode

LONG = "x" * 4000
PLAIN_PIECES = tuple(piece for piece in PIECES if not set(piece) & set("\r\n\x00"))
# of a limit of their own that no answer keeps
DEADLINES = ("0.001", "0.01", "1e-9", "5e-324", "0.1")
ODD = {
    "Authorization": (
        "", "Bearer", "Bearer ", "Bearer wrong", f"bearer {KEY}", f"Basic {KEY}", KEY, LONG,
        f"Bearer  {KEY} ", f"Bearer {KEY}, Bearer {KEY}", f"Bearer {KEY}\x7f", "Bearer \xfc",
        "Bearer \u6f22",
    ),
    "Content-Type": (
        "", "text/plain", "application/json; charset=utf-8", "application/json; charset=latin-1",
        "application/json; charset=nonsense", "application/json; charset=utf-16", ";", LONG,
        "application/json; charset=base64", "application/json; charset=\x01", "application/json;;",
        "application/x-ndjson", "application/x-www-form-urlencoded", "multipart/form-data",
        "\u6f22",
    ),
    "Content-Encoding": (
        "", "identity", "compress", "unknown", "gzip, gzip", "GZIP", "br", "zstd", "deflate",
    ),
    "Expect": ("100-continue", "100-Continue", "200-ok", "", "x" * 300),
    "Accept": ("*/*", "text/html", "application/xml;q=0", "", LONG, "text/event-stream", "\xff"),
    "Accept-Encoding": ("gzip", "br", "identity;q=0, *;q=0", "deflate, gzip;q=x", ""),
    "x-request-id": (
        "abc", "", LONG, "\xfc", "\u6f22", "a b", "<script>", "a\tb", "%0d%0aX: 1", "\x7f",
    ),
    "x-request-timeout-s": (
        "5", "60", "1e9", "1e400", "inf", "nan", "-1", "0", "-0", "", "abc", "0x10", "1_0",
        "\u0665", "5, 5", " 5 ", "9" * 400, "+5", "None",
    ),
    "Cache-Control": (
        "no-store", "no-cache", "NO-STORE", "max-age=0, no-store", ",,,", LONG, "no-store\x0b",
        "\xff",
    ),
    "Host": ("", "x", "a b", "[::1", "\xfc", LONG, "127.0.0.1:99999999", "evil.test/.."),
    "Origin": ("http://x.test", "null", "", "\xff", LONG),
    "Connection": ("close", "keep-alive", "upgrade", "close, keep-alive", ""),
    "Cookie": ("a=b", "=;=;", "a=" + LONG, '"', "\xff=\xfe"),
    "traceparent": (
        "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-0-0-0", "", "ff-" + "0" * 32, LONG,
    ),
    "baggage": ("a=b", "=" * 500, "a=%ff", LONG),
    "Range": ("bytes=0-1", "x"),
    "If-None-Match": ("*", '"x"'),
    # doubled, never another: the body's end is the connection's matter
    "Content-Length": (),
}  # fmt: skip


def headers(rng: Random) -> Case:
    """Return a valid request with one to three headers odd, doubled or left out."""
    path = rng.choice((CHAT, COMPLETIONS, EMBEDDINGS))
    body = valid(rng, path)
    payload = encode(body, rng)
    own = [*common_headers(len(payload)), JSON_TYPE]
    expires = rng.random() < 0.04
    if expires:
        own.append(("x-request-timeout-s", rng.choice(DEADLINES)))
    else:
        for _ in range(rng.choice((1, 1, 2, 3))):
            _spoil(rng, own)
    version = "1.0" if rng.random() < 0.1 else "1.1"
    rng.shuffle(own)
    start = head("POST", path, tuple(own), version)
    return Case("headers", "POST", path, (start, payload), body, has_body=True, expires=expires)


def _spoil(rng: Random, own: list[tuple[str, str]]) -> None:
    name, values = rng.choice(list(ODD.items()))
    dice = rng.random()
    present = [index for index, header in enumerate(own) if header[0] == name]
    if dice < 0.08:
        own.append((f"X-{rng.randint(0, 9)}" * rng.choice((1, 1000)), rng.choice(PLAIN_PIECES)))
    elif present and (dice < 0.2 or not values) and name != "Content-Length":
        del own[present[0]]
    elif present and (dice < 0.4 or not values):
        own.append(own[present[0]])
    elif present and values:
        own[present[0]] = (name, rng.choice(values))
    elif values:
        own.append((name, rng.choice(values)))
