"""What travels with a request through every hop: its id, its deadline and its trace."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from mesh.errors import DEADLINE_PASSED, Code, MeshError

REQUEST_ID = "x-request-id"
DEADLINE = "x-deadline-unix-ms"
MAX_DEADLINE_DIGITS = 15


@dataclass(frozen=True, slots=True)
class RequestContext:
    """`deadline` is on this process's monotonic clock, in seconds."""

    request_id: str
    deadline: float

    @classmethod
    def start(cls, timeout_s: float, request_id: str = "") -> "RequestContext":
        """Return a new request that ends in `timeout_s` at the latest."""
        return cls(request_id or uuid.uuid4().hex, time.monotonic() + timeout_s)

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], limit_s: float) -> "RequestContext":
        """Return the caller's context; without a readable deadline of theirs, `limit_s` holds."""
        text = headers.get(DEADLINE, "")
        readable = text.isdecimal() and len(text) <= MAX_DEADLINE_DIGITS
        left = int(text) / 1000 - time.time() if readable else limit_s
        return cls.start(min(left, limit_s), headers.get(REQUEST_ID, ""))

    def remaining(self, limit_s: float = float("inf")) -> float:
        """Return the seconds left, at most `limit_s`; raise DEADLINE_EXCEEDED when none are."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise MeshError(Code.DEADLINE_EXCEEDED, DEADLINE_PASSED)
        return min(left, limit_s)

    def limit(self, limit_s: float = float("inf")) -> "_Limit":
        """Return a context manager that ends its block at the deadline, or after `limit_s`.

        It raises DEADLINE_EXCEEDED then; this call does when no time is left. A TimeoutError from
        the block and a cancellation from outside pass through.
        """
        return _Limit(self.remaining(limit_s))

    @property
    def deadline_unix_ms(self) -> int:
        """The deadline on the wall clock, for other machines."""
        return int((time.time() + self.deadline - time.monotonic()) * 1000)

    def headers(self) -> dict[str, str]:
        """Header or metadata entries that carry this context."""
        return {REQUEST_ID: self.request_id, DEADLINE: str(self.deadline_unix_ms)}


class _Limit:
    """A class, not a generator: it is entered for each batch of tokens."""

    __slots__ = ("_timeout",)

    def __init__(self, timeout_s: float) -> None:
        self._timeout = asyncio.timeout(timeout_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError as expired:
            raise MeshError(Code.DEADLINE_EXCEEDED, DEADLINE_PASSED) from expired
