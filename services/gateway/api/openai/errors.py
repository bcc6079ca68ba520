"""OpenAI's error object, and its type for each of the mesh's codes."""

from typing import Any

from mesh.errors import Code, MeshError
from services.gateway.domain.errors import RefusedError
from services.gateway.http import sse

TYPES = {
    Code.CANCELLED: "request_cancelled",
    Code.INVALID_ARGUMENT: "invalid_request_error",
    Code.DEADLINE_EXCEEDED: "timeout_error",
    Code.NOT_FOUND: "not_found_error",
    Code.PERMISSION_DENIED: "permission_error",
    Code.RESOURCE_EXHAUSTED: "rate_limit_error",
    Code.FAILED_PRECONDITION: "invalid_request_error",
    Code.UNIMPLEMENTED: "invalid_request_error",
    Code.INTERNAL: "server_error",
    Code.UNAVAILABLE: "service_unavailable",
    Code.UNAUTHENTICATED: "authentication_error",
}
_DEFAULT_REASONS = {
    Code.UNAUTHENTICATED: "invalid_api_key",
    Code.RESOURCE_EXHAUSTED: "rate_limit_exceeded",
}


def error_body(error: MeshError) -> dict[str, Any]:
    """Return the JSON body of an error answer."""
    reason = _DEFAULT_REASONS.get(error.code)
    if isinstance(error, RefusedError):
        reason = error.reason
    return {
        "error": {
            "message": error.message,
            "type": TYPES[error.code],
            "param": error.field,
            "code": reason,
        }
    }


def error_event(error: MeshError) -> bytes:
    """Return the event that ends a stream which broke."""
    return sse.event(error_body(error))
