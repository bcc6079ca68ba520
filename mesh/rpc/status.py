"""Errors of the mesh as gRPC statuses and back.

Only texts that our own edge wrote are passed on: a status of gRPC's own has its text replaced.
"""

from typing import Any

import grpc

from mesh.errors import DEADLINE_PASSED, Code, MeshError

OURS = "infermesh-error"
FIELD = "infermesh-field"
RETRY_AFTER = "infermesh-retry-after-s"

_STATUS = {status.value[0]: status for status in grpc.StatusCode}
_GENERIC = {
    Code.UNAVAILABLE: "A part of the service is not available now.",
    Code.DEADLINE_EXCEEDED: DEADLINE_PASSED,
    Code.CANCELLED: "The request was cancelled.",
    Code.RESOURCE_EXHAUSTED: "A part of the service is overloaded or the request is too large.",
}


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: MeshError) -> None:
    """End a call with the status of `error`; raise what gRPC raises to end it."""
    trailing = [(OURS, "1")]
    if error.field is not None:
        trailing.append((FIELD, error.field))
    if error.retry_after_s is not None:
        trailing.append((RETRY_AFTER, str(error.retry_after_s)))
    await context.abort(_STATUS[error.code.value.grpc], error.message, tuple(trailing))


def translate(error: grpc.aio.AioRpcError) -> MeshError:
    """Return the mesh's error for a failed call; only texts written by our own edge are kept."""
    code = Code.from_grpc(error.code().value[0])
    trailing = dict(error.trailing_metadata() or ())
    if OURS not in trailing:
        return MeshError(code, _GENERIC.get(code, "A part of the service failed."))
    retry = trailing.get(RETRY_AFTER)
    return MeshError(
        code,
        error.details() or "",
        field=trailing.get(FIELD),
        retry_after_s=None if retry is None else float(retry),
    )
