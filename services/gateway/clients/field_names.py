"""A service's refusal names its contract's fields; the caller knows the request's."""

from collections.abc import Iterator
from contextlib import contextmanager

from mesh.errors import MeshError


@contextmanager
def renamed(field: str) -> Iterator[None]:
    """Name whatever field a MeshError is about `field`."""
    try:
        yield
    except MeshError as error:
        if error.field is not None:
            error.field = field
        raise


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Name a MeshError's field from the request's root: it is inside `prefix` there."""
    try:
        yield
    except MeshError as error:
        if error.field is not None:
            error.field = f"{prefix}.{error.field}"
        raise
