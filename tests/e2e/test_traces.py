"""One request is one trace, across HTTP, gRPC and the bus down to the engine."""

import secrets

import openai
import pytest

from tests.e2e.spans import SpanReceiver
from tests.e2e.stack import Stack, wait

pytestmark = pytest.mark.e2e

EXPECTED = {
    ("gateway", "POST /v1/chat/completions"),
    ("tokenizer", "mesh.v1.Tokenizer/EncodeChat"),
    ("cache", "mesh.v1.Cache/Lookup"),
    ("generator", "generator.job"),
    ("generator", "engine.prefill"),
    ("generator", "engine.decode"),
}


def test_one_trace_per_request(
    stack: Stack, client: openai.OpenAI, model: str, spans: SpanReceiver
) -> None:
    """The caller's trace id reaches the engine, and every span hangs below another of the trace."""
    trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"Hello {trace_id[:6]}"}],
        max_tokens=4,
        temperature=0,
        extra_headers={"traceparent": f"00-{trace_id}-{parent_id}-01"},
    )

    def arrived() -> bool:
        return {(s.service, s.name) for s in spans.trace(trace_id)} >= EXPECTED

    wait(arrived, 15, lambda: str(spans.trace(trace_id)))
    found = spans.trace(trace_id)
    ids = {span.span_id for span in found} | {bytes.fromhex(parent_id)}
    assert all(span.parent_id in ids for span in found)
