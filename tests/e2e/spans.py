"""An OTLP receiver in memory."""

import threading
from collections import defaultdict
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc


@dataclass(frozen=True, slots=True)
class Recorded:
    """One span as it arrived."""

    service: str
    name: str
    span_id: bytes
    parent_id: bytes


class SpanReceiver(pb_grpc.TraceServiceServicer):
    """Keeps all spans, by trace id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._traces: dict[bytes, list[Recorded]] = defaultdict(list)
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        pb_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def Export(
        self, request: pb.ExportTraceServiceRequest, context: Any
    ) -> pb.ExportTraceServiceResponse:
        """Takes a batch."""
        with self._lock:
            for resource in request.resource_spans:
                service = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._traces[span.trace_id].append(
                            Recorded(
                                service["service.name"],
                                span.name,
                                span.span_id,
                                span.parent_span_id,
                            )
                        )
        return pb.ExportTraceServiceResponse()

    def trace(self, trace_id: str) -> list[Recorded]:
        """The spans of one trace so far."""
        with self._lock:
            return list(self._traces.get(bytes.fromhex(trace_id), ()))
