"""What an exchange's bytes say: when text came, how many tokens, whether it failed. No I/O."""

import json
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from bench.service.client import Exchange


class Answer(NamedTuple):
    """One request from outside; moments in seconds from when it was due.

    `fault` names what went wrong, a status or an event of the stream; else there is a whole answer.
    `texts_s` are the moments of events with text.
    """

    late_s: float
    texts_s: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_tokens: int = 0
    is_cache_hit: bool = False
    end_s: float = 0.0
    fault: str = ""

    @property
    def first_token_s(self) -> float:
        """When the first text came, the end where there was none; infinite for a failure."""
        if self.fault:
            return float("inf")
        return self.texts_s[0] if self.texts_s else self.end_s

    @property
    def per_token_s(self) -> float | None:
        """Time of each token after the first; None where there is no second."""
        if self.fault or self.num_tokens < 2 or not self.texts_s:
            return None
        return (self.texts_s[-1] - self.texts_s[0]) / (self.num_tokens - 1)


def read(exchange: Exchange) -> Answer:
    """Return the answer in what came back."""
    late_s = exchange.sent_s - exchange.due_s
    head, _, body = b"".join(exchange.pieces).partition(b"\r\n\r\n")
    status = head[9:12].decode("ascii", "replace")
    if exchange.fault or status != "200":
        return Answer(late_s, fault=exchange.fault or f"HTTP {status}")
    ends = list(accumulate(map(len, exchange.pieces)))
    texts_s: list[float] = []
    usage: dict[str, Any] = {}
    fault, is_done = "", False
    for end, data in _events(body, len(head) + 4):
        if data == b"[DONE]":
            is_done = True
            continue
        event = json.loads(data)
        if "error" in event:
            fault = f"event {event['error'].get('code')}"
        if _text(event):
            texts_s.append(exchange.moments_s[bisect_left(ends, end)] - exchange.due_s)
        usage = event.get("usage") or usage
    if not fault and not (is_done and usage):
        fault = "no end"
    return Answer(
        late_s=late_s,
        texts_s=tuple(texts_s),
        num_prompt_tokens=usage.get("prompt_tokens", 0),
        num_cached_tokens=usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
        num_tokens=usage.get("completion_tokens", 0),
        is_cache_hit=b"x-infermesh-cache: hit" in head.lower(),
        end_s=exchange.moments_s[-1] - exchange.due_s,
        fault=fault,
    )


def _events(body: bytes, offset: int) -> Sequence[tuple[int, bytes]]:
    """Return the data of each event, and how many bytes had come with its last one."""
    events, position, begun = [], 0, b""
    while (line_end := body.find(b"\r\n", position)) >= 0:
        size = int(body[position:line_end], 16)
        if size == 0:
            break
        chunk_end = line_end + 2 + size
        *whole, begun = (begun + body[line_end + 2 : chunk_end]).split(b"\n\n")
        events += [(offset + chunk_end, each[6:]) for each in whole if each[:6] == b"data: "]
        position = chunk_end + 2
    return events


def _text(event: dict[str, Any]) -> str:
    choices = event.get("choices")
    return str(choices[0]["delta"].get("content", "")) if choices else ""
