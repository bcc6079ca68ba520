"""The one place in which errors of NATS become errors of the mesh."""

from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors

from mesh.errors import Code, MeshError

RETRY_AFTER_S = 1.0


class BusUnavailableError(MeshError):
    """The server cannot be reached or does not answer in time; `__cause__` says why."""

    def __init__(self, message: str = "The message bus is not available now.") -> None:
        super().__init__(Code.UNAVAILABLE, message, retry_after_s=RETRY_AFTER_S)


@contextmanager
def translated(message: str = "The message bus is not available now.") -> Iterator[None]:
    """Raise BusUnavailableError where NATS fails or takes too long inside the block."""
    try:
        yield
    except (nats.errors.Error, TimeoutError) as error:
        raise BusUnavailableError(message) from error
