"""Spans across processes, logs with their trace, and the exporter, against a real OTLP receiver."""

import json
import logging
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from cli import servers
from mesh.config import Settings
from mesh.telemetry import Telemetry, _JsonLines, extract, inject, past_span, span

ROOT = Path(__file__).parents[2]


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What is recorded in this process; the provider is global and stays."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {recorded.name: recorded for recorded in spans.get_finished_spans()}


def trace_of(recorded: ReadableSpan) -> int:
    assert recorded.context is not None
    return int(recorded.context.trace_id)


def test_a_trace_crosses_a_hop(spans: InMemorySpanExporter) -> None:
    """The headers of one side make the other side's span its child, of the kind that is asked."""
    headers: dict[str, str] = {}
    with span("client", kind=SpanKind.CLIENT, tokens=3):
        inject(headers)
    assert headers["traceparent"].startswith("00-")
    with span("server", kind=SpanKind.SERVER, carrier=headers), span("inside"):
        pass
    found = by_name(spans)
    client, server, inside = (found[name] for name in ("client", "server", "inside"))
    assert client.context is not None
    assert server.context is not None
    assert server.parent is not None
    assert inside.parent is not None
    assert server.parent.span_id == client.context.span_id
    assert inside.parent.span_id == server.context.span_id
    assert {trace_of(s) for s in (client, server, inside)} == {client.context.trace_id}
    assert (client.kind, server.kind, inside.kind) == (
        SpanKind.CLIENT,
        SpanKind.SERVER,
        SpanKind.INTERNAL,
    )
    assert dict(client.attributes or {}) == {"tokens": 3}


def test_without_a_parent_a_trace_begins(spans: InMemorySpanExporter) -> None:
    """Headers without a trace, or with nonsense, begin a new one even inside another span."""
    with span("outer"):
        for name, carrier in (("none", {}), ("bad", {"traceparent": "00-zz-zz-01"})):
            with span(name, carrier=carrier):
                pass
    found = by_name(spans)
    assert found["none"].parent is None
    assert found["bad"].parent is None
    assert trace_of(found["none"]) != trace_of(found["outer"])


def test_a_fault_is_named_without_its_text(spans: InMemorySpanExporter) -> None:
    """A failed span has the class of the exception; its text appears nowhere."""
    with pytest.raises(ValueError, match="secret"), span("fails"):
        raise ValueError("secret")
    failed = by_name(spans)["fails"]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "ValueError"
    assert not failed.events
    assert "secret" not in failed.to_json()


def test_work_of_the_past(spans: InMemorySpanExporter) -> None:
    """A span recorded afterwards has its times, its parent, and parts of its own."""
    headers: dict[str, str] = {}
    with span("request"):
        inject(headers)
    context = past_span("job", extract(headers), 1000.0, 1002.5, tokens=4)
    past_span("part", context, 1000.5, 1001.0)
    found = by_name(spans)
    job, part, request = found["job"], found["part"], found["request"]
    assert job.parent is not None
    assert part.parent is not None
    assert job.context is not None
    assert request.context is not None
    assert job.parent.span_id == request.context.span_id
    assert part.parent.span_id == job.context.span_id
    assert (job.start_time, job.end_time) == (1000 * 10**9, 2005 * 10**9 // 2)
    assert dict(job.attributes or {}) == {"tokens": 4}


def test_a_log_line_is_one_object(spans: InMemorySpanExporter) -> None:
    """A line holds the service, the message and, inside a span, the trace; faults stay on it."""
    try:
        raise KeyError("x")
    except KeyError:
        record = logging.LogRecord(
            "a.b", logging.ERROR, "f.py", 1, "failed\n%d", (7,), sys.exc_info()
        )
    formatter = _JsonLines("cache")
    with span("s") as current:
        line = formatter.format(record)
        expected = f"{current.get_span_context().trace_id:032x}"
    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["service"], entry["level"], entry["logger"]) == ("cache", "ERROR", "a.b")
    assert entry["message"] == "failed\n7"
    assert entry["trace_id"] == expected
    assert "KeyError" in entry["exception"]
    assert "trace_id" not in json.loads(formatter.format(record))


def test_the_metrics_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are served on the port that is set until `close`, which may come twice."""
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    port = servers.free_port()
    telemetry = Telemetry(Settings(metrics_port=port))
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        assert b"python_info" in response.read()
    telemetry.close()
    telemetry.close()
    assert servers.is_free("127.0.0.1", port)


class Receiver(otlp_grpc.TraceServiceServicer):
    """An OTLP collector."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.came = threading.Event()

    def Export(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        self.came.set()
        return otlp.ExportTraceServiceResponse()


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    """The collector on a free port."""
    made = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    otlp_grpc.add_TraceServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


EXPORTING = """
import os
from typing import ClassVar
from mesh.config import Settings, load
from mesh.telemetry import Telemetry, span

class Own(Settings):
    service: ClassVar[str] = "cache"

telemetry = Telemetry(load(Own, os.environ))
with span("outer", answer=42):
    with span("inner"):
        pass
telemetry.close()
telemetry.close()
"""


def test_spans_are_exported(receiver: tuple[Receiver, str]) -> None:
    """Where an endpoint is set, spans leave under the service's name, at `close` at the latest."""
    collector, endpoint = receiver
    subprocess.run(
        [sys.executable, "-c", EXPORTING],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "INFERMESH_OTLP_ENDPOINT": endpoint},
        check=True,
        timeout=30,
    )
    assert collector.came.wait(5)
    resources = [r for request in collector.requests for r in request.resource_spans]
    names = {
        attribute.value.string_value
        for resource in resources
        for attribute in resource.resource.attributes
        if attribute.key == "service.name"
    }
    assert names == {"cache"}
    exported = {
        each.name: each
        for resource in resources
        for scope in resource.scope_spans
        for each in scope.spans
    }
    assert exported.keys() == {"outer", "inner"}
    assert exported["inner"].parent_span_id == exported["outer"].span_id
    assert exported["outer"].attributes[0].value.int_value == 42
