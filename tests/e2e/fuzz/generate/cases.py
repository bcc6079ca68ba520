"""A case from its seed and number alone, so that a failure can be run again by itself."""

from collections.abc import Callable
from random import Random

from tests.e2e.fuzz.case import Case
from tests.e2e.fuzz.generate import bodies, documents, headers, routes, transport

# of a hundred cases, how many each kind has
SHARES: tuple[tuple[int, Callable[[Random], Case]], ...] = (
    (46, bodies.near_valid),
    (12, bodies.any_json),
    (6, bodies.no_json),
    (7, bodies.stream),
    (8, documents.document),
    (2, documents.deletion),
    (4, routes.reading),
    (4, routes.unknown),
    (6, headers.headers),
    (2, transport.encoded_body),
    (3, transport.raw),
)


def case(seed: int, number: int) -> Case:
    """Return the case of this number; equal arguments give equal bytes."""
    rng = Random(f"{seed}/{number}")
    [(_, make)] = rng.choices(SHARES, [share for share, _ in SHARES])
    return make(rng)
