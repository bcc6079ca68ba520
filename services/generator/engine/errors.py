"""Errors of the engine: a bad field of a caller's, a full queue, a fault. No transports."""


class FieldError(ValueError):
    """A value a caller chose is not acceptable.

    `field` is its public name, `message` one sentence without it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class ParamError(FieldError):
    """A sampling parameter is out of range by itself."""


class RequestError(FieldError):
    """A request does not fit this model or this engine."""


class EngineConfigError(FieldError):
    """An engine option is out of range or contradicts another."""


class QueueFullError(Exception):
    """The queue takes no more now; `expected_wait_s` is how long a place in it takes to come up."""

    def __init__(self, limit: str, expected_wait_s: float) -> None:
        super().__init__(f"{limit}: the queue is full, try again in {expected_wait_s:.1f} s")
        self.limit = limit
        self.expected_wait_s = expected_wait_s


class EngineFaultError(Exception):
    """A failure that no single request is to blame for."""


class OutOfMemoryError(Exception):
    """An executor found no memory for a batch; a smaller one may fit."""
