"""Who sends a request. Knows keys and tenants, not HTTP beyond the text of one header."""

import hashlib
import hmac
from collections.abc import Mapping

from mesh.errors import Code, MeshError
from services.gateway.domain.request import MAX_PRIORITY, Principal

# only these go before the requests of other tenants
_FIRST_CLASSES = {"admin": -MAX_PRIORITY}
ANYONE = Principal("anonymous", -MAX_PRIORITY)


class Authenticator:
    """Knows the hashes of the keys of some tenants; without any, it admits anyone."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._principals = [
            (_digest(key), Principal(tenant, _FIRST_CLASSES.get(tenant, 0)))
            for tenant, key in keys.items()
            if key
        ]

    def authenticate(self, authorization: str) -> Principal:
        """Return the caller behind `Bearer KEY`; raises UNAUTHENTICATED."""
        if not self._principals:
            return ANYONE
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise MeshError(
                Code.UNAUTHENTICATED,
                "Missing API key: send it as `Authorization: Bearer KEY`.",
            )
        given = _digest(key.strip())
        caller = None
        # every key is compared, so that time does not tell which one was near
        for known, principal in self._principals:
            if hmac.compare_digest(known, given):
                caller = principal
        if caller is None:
            raise MeshError(Code.UNAUTHENTICATED, "Incorrect API key.")
        return caller


def _digest(key: str) -> bytes:
    # headers may hold bytes that are no UTF-8; they arrive as surrogates
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
