"""One error type and one table from its codes to gRPC and HTTP."""

import enum
from typing import NamedTuple


class Wire(NamedTuple):
    """How one code looks on each wire: gRPC's status number, HTTP's status."""

    grpc: int
    http: int


class Code(enum.Enum):
    """What went wrong, named as gRPC names it."""

    CANCELLED = Wire(1, 499)
    INVALID_ARGUMENT = Wire(3, 400)
    DEADLINE_EXCEEDED = Wire(4, 504)
    NOT_FOUND = Wire(5, 404)
    PERMISSION_DENIED = Wire(7, 403)
    RESOURCE_EXHAUSTED = Wire(8, 429)
    FAILED_PRECONDITION = Wire(9, 409)
    UNIMPLEMENTED = Wire(12, 501)
    INTERNAL = Wire(13, 500)
    UNAVAILABLE = Wire(14, 503)
    UNAUTHENTICATED = Wire(16, 401)

    @classmethod
    def from_grpc(cls, status: int) -> "Code":
        """Return the code of a gRPC status; INTERNAL for those that the mesh never sends."""
        return _BY_GRPC.get(status, cls.INTERNAL)


_BY_GRPC = {code.value.grpc: code for code in Code}


class MeshError(Exception):
    """A failure that its caller may see: `message` is written for them and holds nothing internal.

    `field` names the request's field at fault; `retry_after_s` says when to try again.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


# the one text of DEADLINE_EXCEEDED
DEADLINE_PASSED = "The request's deadline has passed."


class CannotStartError(Exception):
    """Why a process refuses to start, in words for the person who starts it."""


def invalid(field: str, message: str) -> MeshError:
    """Return the error of a caller who sent something that `field` does not allow."""
    return MeshError(Code.INVALID_ARGUMENT, message, field=field)


def unavailable(message: str, retry_after_s: float = 1.0) -> MeshError:
    """Return the error where something is not there now; trying again may help."""
    return MeshError(Code.UNAVAILABLE, message, retry_after_s=retry_after_s)
