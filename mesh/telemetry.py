"""Traces, logs and the metrics port. Trace context crosses every hop in W3C form."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from prometheus_client import start_http_server

from mesh.config import Settings

_tracer = trace.get_tracer("infermesh")


class Telemetry:
    """Owns what must be flushed at the end; `close` is idempotent."""

    def __init__(self, settings: Settings) -> None:
        _log_to_stderr(settings)
        self._provider: TracerProvider | None = None
        if settings.otlp_endpoint:
            resource = Resource.create({"service.name": settings.service})
            self._provider = TracerProvider(resource=resource)
            exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=True, timeout=5)
            self._provider.add_span_processor(
                BatchSpanProcessor(exporter, schedule_delay_millis=1000, max_queue_size=8192)
            )
            trace.set_tracer_provider(self._provider)
        self._metrics = None
        if settings.metrics_port:
            self._metrics, _ = start_http_server(settings.metrics_port, addr=settings.bind)

    def close(self) -> None:
        """Send what is left and free the metrics port."""
        if self._provider is not None:
            self._provider.shutdown()
            self._provider = None
        if self._metrics is not None:
            self._metrics.shutdown()
            self._metrics.server_close()
            self._metrics = None


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    carrier: Mapping[str, str] | None = None,
    **attributes: str | int | float | bool,
) -> Iterator[Span]:
    """Keep a span current inside the block; `carrier` holds the headers of a remote parent.

    An exception marks the span as failed by its class alone: texts stay in the process's log.
    """
    parent = propagate.extract(carrier) if carrier is not None else None
    with _tracer.start_as_current_span(
        name,
        parent,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def past_span(
    name: str,
    parent: context.Context,
    start_unix_s: float,
    end_unix_s: float,
    **attributes: str | int | float | bool,
) -> context.Context:
    """Record a span after the fact, for work that ran where no context is current.

    Returns the context in which its own parts can be recorded.
    """
    recorded = _tracer.start_span(
        name, parent, start_time=int(start_unix_s * 1e9), attributes=attributes
    )
    recorded.end(int(end_unix_s * 1e9))
    return trace.set_span_in_context(recorded, parent)


def inject(carrier: MutableMapping[str, str]) -> None:
    """Add the current trace context to outgoing headers."""
    propagate.inject(carrier)


def extract(carrier: Mapping[str, str]) -> context.Context:
    """Return the trace context that incoming headers carry."""
    return propagate.extract(carrier)


class _JsonLines(logging.Formatter):
    """One JSON object per line, with the trace it belongs to."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        ids = trace.get_current_span().get_span_context()
        if ids.is_valid:
            entry["trace_id"] = f"{ids.trace_id:032x}"
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _log_to_stderr(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(settings.service))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for chatty in ("httpx", "aiohttp.access", "sentence_transformers", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
