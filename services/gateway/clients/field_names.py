"""A service's refusal names its contract's fields; the caller knows the request's."""

import re
from collections.abc import Iterator, Mapping
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
def translated(names: Mapping[str, str]) -> Iterator[None]:
    """Name a MeshError's field by `names`, in its message too; what follows `[` or `.` stays."""
    try:
        yield
    except MeshError as error:
        if error.field is not None:
            root = re.split(r"[.\[]", error.field, maxsplit=1)[0]
            name = names.get(error.field) or names.get(root, root) + error.field[len(root) :]
            error.message = error.message.replace(error.field, name)
            error.field = name
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
