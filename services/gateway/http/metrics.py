"""What the gateway counts about HTTP and generation; others count their own."""

import time

from prometheus_client import Counter, Gauge, Histogram

from services.gateway.domain.generation import TextDelta, Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

requests = Counter(
    "infermesh_gateway_requests_total", "HTTP requests by route and status", ["route", "status"]
)
latency = Histogram(
    "infermesh_gateway_request_seconds", "Time to the last byte", ["route"], buckets=_SECONDS
)
in_flight = Gauge("infermesh_gateway_in_flight", "API requests that are being answered")
stream_failures = Counter(
    "infermesh_gateway_stream_failures_total", "Streams that ended in an error event", ["code"]
)
slow_readers = Counter(
    "infermesh_gateway_slow_readers_total", "Streams cut because nobody read them"
)
_first_text = Histogram(
    "infermesh_gateway_time_to_first_token_seconds",
    "From the request's arrival to its first generated text",
    buckets=_SECONDS,
)
_between_tokens = Histogram(
    "infermesh_gateway_inter_token_seconds", "Between the tokens of a choice", buckets=_SECONDS
)
_tokens = Counter(
    "infermesh_gateway_tokens_total", "Tokens by direction: prompt or completion", ["direction"]
)


class GenerationMeter:
    """Times one request's tokens from `started`, on the clock of `time.perf_counter`."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._last: dict[int, float] = {}

    def delta(self, index: int, delta: TextDelta) -> None:
        """Note new tokens of a choice."""
        now = time.perf_counter()
        last = self._last.get(index)
        if last is not None:
            if delta.num_tokens:
                _between_tokens.observe((now - last) / delta.num_tokens)
        elif not self._last:
            _first_text.observe(now - self._started)
        self._last[index] = now

    def done(self, usage: Usage) -> None:
        """Add the request's whole counts."""
        _tokens.labels("prompt").inc(usage.prompt_tokens)
        _tokens.labels("completion").inc(usage.completion_tokens)
