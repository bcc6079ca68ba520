"""Bytes of server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def event(data: Any) -> bytes:
    """Return one event with a JSON value."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
