"""Bytes of server-sent events in OpenAI's form. Pure: one request's constant parts are made once.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import json
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def event(data: Any) -> bytes:
    """One event with a JSON value."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


class Dialect(NamedTuple):
    """How chunks of one endpoint look: their `object` and where a choice holds its text."""

    kind: str
    before_text: str
    after_text: str
    first: str | None
    empty: str


CHAT = Dialect(
    "chat.completion.chunk",
    '"delta":{"content":',
    "}",
    '"delta":{"role":"assistant","content":""}',
    '"delta":{}',
)
TEXT = Dialect("text_completion", '"text":', "", None, '"text":""')


class Chunks:
    """The chunks of one stream. Only text, index and finish reason differ between them.

    With `with_usage`, chunks before the last say `"usage":null`. `citations` stand in the first
    and the finishing chunk.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        id: str,
        created: int,
        model: str,
        system_fingerprint: str,
        with_usage: bool = False,
        citations: list[dict[str, Any]] | None = None,
    ) -> None:
        head = {
            "id": id,
            "object": dialect.kind,
            "created": created,
            "model": model,
            "system_fingerprint": system_fingerprint,
        }
        self._dialect = dialect
        self._head = "data: " + json.dumps(head, separators=(",", ":"))[:-1]
        self._null_usage = ',"usage":null' if with_usage else ""
        self._citations = ""
        if citations is not None:
            self._citations = ',"citations":' + json.dumps(citations, separators=(",", ":"))
        self._around_text: dict[int, tuple[str, str, str]] = {}

    def first(self, index: int) -> bytes:
        """What opens a choice: in a chat its role; nothing where there is nothing to say."""
        opening = self._dialect.first
        if opening is None:
            if not self._citations:
                return b""
            opening = self._dialect.empty
        return self._chunk(index, opening, "null", self._citations)

    def text(self, index: int, text: str, logprobs: dict[str, Any] | None = None) -> bytes:
        """New text of a choice."""
        around = self._around_text.get(index)
        if around is None:
            around = self._around_text[index] = self._framed(index)
        before, middle, after = around
        told = "null" if logprobs is None else json.dumps(logprobs, separators=(",", ":"))
        return (before + encode_basestring_ascii(text) + middle + told + after).encode("ascii")

    def finish(self, index: int, reason: str) -> bytes:
        """The end of a choice."""
        return self._chunk(index, self._dialect.empty, json.dumps(reason), self._citations)

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The counts of the whole request, in a chunk without choices."""
        counts = json.dumps(usage, separators=(",", ":"))
        return f'{self._head},"choices":[],"usage":{counts}}}\n\n'.encode("ascii")

    def _framed(self, index: int) -> tuple[str, str, str]:
        dialect = self._dialect
        before = f'{self._head},"choices":[{{"index":{index},{dialect.before_text}'
        after = f',"finish_reason":null}}]{self._null_usage}}}\n\n'
        return before, f'{dialect.after_text},"logprobs":', after

    def _chunk(self, index: int, payload: str, reason: str, extra: str) -> bytes:
        choice = f'{{"index":{index},{payload},"logprobs":null,"finish_reason":{reason}}}'
        text = f'{self._head},"choices":[{choice}]{self._null_usage}{extra}}}\n\n'
        return text.encode("ascii")
