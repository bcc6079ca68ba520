"""Chunks of a streamed completion as OpenAI frames them: `data:` events of one choice each.

One request's constant parts are encoded once: most chunks differ in text, index and logprobs alone.
"""

import json
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple


class ChunkForm(NamedTuple):
    """How one endpoint's chunks look: their `object` and where a choice holds its text.

    `opening` begins a choice, `empty` stands where it has no text; None opens with nothing.
    """

    object: str
    before_text: str
    after_text: str
    opening: str | None
    empty: str


class Chunks:
    """The chunks of one stream. Only text, index and finish reason differ between them.

    With `with_usage`, chunks before the last say `"usage":null`. `citations` stand in the first
    and the finishing chunk.
    """

    def __init__(
        self,
        form: ChunkForm,
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
            "object": form.object,
            "created": created,
            "model": model,
            "system_fingerprint": system_fingerprint,
        }
        self._form = form
        self._head = "data: " + json.dumps(head, separators=(",", ":"))[:-1]
        self._null_usage = ',"usage":null' if with_usage else ""
        self._citations = ""
        if citations is not None:
            self._citations = ',"citations":' + json.dumps(citations, separators=(",", ":"))
        self._around_text: dict[int, tuple[str, str, str]] = {}

    def first(self, index: int) -> bytes:
        """Return what opens a choice, if anything does."""
        opening = self._form.opening
        if opening is None:
            if not self._citations:
                return b""
            opening = self._form.empty
        return self._chunk(index, opening, "null", self._citations)

    def text(self, index: int, text: str, logprobs: dict[str, Any] | None = None) -> bytes:
        """Return a chunk with new text of a choice."""
        around = self._around_text.get(index)
        if around is None:
            around = self._around_text[index] = self._framed(index)
        before, middle, after = around
        described = "null" if logprobs is None else json.dumps(logprobs, separators=(",", ":"))
        return (before + encode_basestring_ascii(text) + middle + described + after).encode("ascii")

    def finish(self, index: int, reason: str) -> bytes:
        """Return the chunk that ends a choice."""
        return self._chunk(index, self._form.empty, json.dumps(reason), self._citations)

    def usage(self, usage: dict[str, Any]) -> bytes:
        """Return the counts of the whole request, in a chunk without choices."""
        counts = json.dumps(usage, separators=(",", ":"))
        return f'{self._head},"choices":[],"usage":{counts}}}\n\n'.encode("ascii")

    def _framed(self, index: int) -> tuple[str, str, str]:
        form = self._form
        before = f'{self._head},"choices":[{{"index":{index},{form.before_text}'
        after = f',"finish_reason":null}}]{self._null_usage}}}\n\n'
        return before, f'{form.after_text},"logprobs":', after

    def _chunk(self, index: int, payload: str, reason: str, extra: str) -> bytes:
        choice = f'{{"index":{index},{payload},"logprobs":null,"finish_reason":{reason}}}'
        text = f'{self._head},"choices":[{choice}]{self._null_usage}{extra}}}\n\n'
        return text.encode("ascii")
